"""PyTorch's settings of precision and of repeatability: set inside a block, and put back after it."""

from __future__ import annotations

import os

import pytest
import torch

from ddfw import OptionError
from ddfw_plugins.executors.arithmetic import arithmetic, deterministic, products_that_may_repeat


def switches():
    """All of PyTorch's switches of products, older and newer; reading fails where they contradict each other."""
    backends = torch.backends
    newer = (backends.cuda.matmul, backends.cudnn.conv, backends.cudnn.rnn, backends.cudnn, backends.mkldnn.matmul)
    older = torch.get_float32_matmul_precision(), backends.cudnn.allow_tf32, backends.cuda.matmul.allow_tf32
    return *(place.fp32_precision for place in newer), *older


@pytest.mark.parametrize(
    ("precision", "wanted"),
    [("ieee", ("highest", False, False)), ("tf32", ("high", True, True)), ("pytorch", ("highest", True, False))],
)
def test_older_and_newer_switches_agree(precision, wanted):
    """Broken: the compiler, or code that turns cuDNN off for a moment, ends a session with PyTorch's error."""
    before = switches()
    with arithmetic(precision):
        assert switches()[-3:] == wanted
        with torch.backends.cudnn.flags(enabled=False):
            assert not torch.backends.cudnn.enabled
        assert switches()[-3:] == wanted
        with pytest.raises(ZeroDivisionError), arithmetic("tf32"):
            raise ZeroDivisionError
        assert switches()[-3:] == wanted
    assert switches() == before


def test_switches_that_contradict_each_other_are_left_so():
    """Broken: a program that has set the newer switches alone cannot open a session, or gets other ones afterwards."""
    products = torch.backends.cuda.matmul
    before = products.fp32_precision
    products.fp32_precision = "tf32"
    try:
        with pytest.raises(RuntimeError):
            torch.get_float32_matmul_precision()
        with arithmetic("ieee"):
            assert switches()[-3:] == ("highest", False, False)
        assert products.fp32_precision == "tf32"
    finally:
        products.fp32_precision = before


def repeatability():
    return (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        torch.utils.deterministic.fill_uninitialized_memory,
        torch.backends.cudnn.deterministic,
        torch.backends.cudnn.benchmark,
        os.environ.get("CUBLAS_WORKSPACE_CONFIG"),
    )


def test_repeatable_operations_are_asked_for_and_settings_put_back(monkeypatch):
    """Broken: the option does nothing, or changes what runs after the session, in this process or its children."""
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    before = repeatability()
    with deterministic():
        assert repeatability() == (True, False, False, True, False, ":4096:8")
        assert torch._inductor.config.deterministic
    with pytest.raises(ZeroDivisionError), deterministic():
        raise ZeroDivisionError
    assert repeatability() == before and not torch._inductor.config.deterministic


def test_an_operation_that_cannot_repeat_is_named_with_a_way_out():
    """Broken: PyTorch's own advice, or a report of a bug, where an option of a component is to be changed."""
    with pytest.raises(OptionError, match="adaptive_max_pool2d_backward_cuda") as caught, deterministic():
        raise RuntimeError(
            "adaptive_max_pool2d_backward_cuda does not have a deterministic implementation, but you set"
        )
    assert "executor.deterministic = false" in str(caught.value) and "torch." not in str(caught.value)
    with pytest.raises(RuntimeError, match=r"^another$"), deterministic():
        raise RuntimeError("another")


def test_products_that_came_too_early_are_told_with_a_way_out():
    """Broken: PyTorch's paragraph about cuBLAS, in the middle of a run of a notebook that has used the GPU before."""
    words = "you must set an environment variable: CUBLAS_WORKSPACE_CONFIG=:4096:8 or …\nFor more information, …"
    with pytest.raises(OptionError, match="has multiplied on a GPU before") as caught, deterministic():
        raise RuntimeError(words)
    assert "CUBLAS_WORKSPACE_CONFIG=:4096:8" in str(caught.value) and "\n" not in str(caught.value)


def test_products_may_repeat_later_and_a_users_own_setting_stays(monkeypatch):
    """Broken: a session that repeats cannot follow another one in the same process; or a user's choice is changed."""
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    with products_that_may_repeat():
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    assert "CUBLAS_WORKSPACE_CONFIG" not in os.environ
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")
    with products_that_may_repeat(), deterministic():
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":16:8"
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":16:8"
