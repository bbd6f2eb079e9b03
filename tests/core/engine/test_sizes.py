"""What is too large is found before memory is taken for it."""

from __future__ import annotations

import pytest
import torch
from attrs import evolve

from ddfw.config.catalog import component
from ddfw.contracts.dataset import ImageSpec
from ddfw.engine.inner import build_module
from ddfw.engine.sizes import is_too_large, size_text, total_memory, weightless
from ddfw.errors import OptionError

SPEC = ImageSpec(channels=1, height=8, width=8, num_classes=10)


@pytest.mark.parametrize("width", [10**5, 10**9, 2**62])
def test_a_network_that_does_not_fit_is_refused_by_its_option(width):
    """The system would end the program, or the message would be PyTorch's own."""
    with pytest.raises(OptionError, match="width") as found:
        build_module(component("model", "convnet", depth=2, width=width), SPEC)
    assert found.value.option == "width"


def test_a_module_without_values_has_the_shapes_of_the_real_one():
    """The check would be about another network than the one that is built."""
    model = component("model", "convnet", depth=2, width=8)
    shapes = [(name, p.shape) for name, p in weightless(model, SPEC).named_parameters()]
    assert shapes == [(name, p.shape) for name, p in build_module(model, SPEC).named_parameters()]


def test_a_network_that_needs_values_to_be_built_is_built():
    """A plugin's network that reads its own values while it is built would be refused."""

    class Reading:
        name = "reading"

        def build(self, spec):
            layer = torch.nn.Linear(2, 2)
            float(layer.weight.detach().sum())
            return torch.nn.Sequential(layer)

    assert weightless(Reading(), SPEC) is None


def test_building_leaves_the_global_generator_alone():
    """Building a network without values would change what a user's program draws next."""
    torch.manual_seed(3)
    first = torch.rand(4)
    torch.manual_seed(3)
    weightless(component("model", "convnet", depth=2, width=8), SPEC)
    assert torch.equal(first, torch.rand(4))


def test_total_memory_is_the_smallest_limit(tmp_path):
    """A container's run would be checked against the memory of the whole host."""
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/meminfo").write_text("MemTotal:       2000 kB\nMemAvailable:   10 kB\n")
    cpu = torch.device("cpu")
    assert total_memory(cpu, tmp_path) == 2000 * 1024
    (tmp_path / "proc/self/cgroup").write_text("0::/mine\n")
    group = tmp_path / "sys/fs/cgroup/mine"
    group.mkdir(parents=True)
    (group / "memory.max").write_text("1000000\n")
    assert total_memory(cpu, tmp_path) == 1000000
    assert total_memory(torch.device("meta")) is None


@pytest.mark.parametrize(
    "error, large",
    [
        (MemoryError(), True),
        (OverflowError("int too big"), True),
        (RuntimeError("Storage size calculation overflowed with sizes=[9]"), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 3 bytes"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (KeyError("overflow"), False),
    ],
)
def test_errors_about_size_are_told_from_others(error, large):
    """A fault of a network's code would be called a lack of memory, or the other way round."""
    assert is_too_large(error) == large


def test_bytes_have_a_unit():
    """Figures in messages would be hard to read, or wrong by a thousand."""
    assert [size_text(n) for n in (0, 999, 1000, 3.6e12, 7e18)] == [
        "0 bytes",
        "999 bytes",
        "1 kB",
        "3.6 TB",
        "7e+03 PB",
    ]


def test_no_option_takes_a_number_that_nobody_means():
    """Overflows inside PyTorch would be shown in place of the option."""
    from ddfw.contracts.settings import EvalSettings, ExpertSettings, OuterSettings

    for cls, option, value in (
        (ExpertSettings, "count", 2**63),
        (ExpertSettings, "seed", 10**5000),
        (ExpertSettings, "lr", 1e39),
        (OuterSettings, "skip_above", 1e300),
        (OuterSettings, "step_size", float("inf")),
        (EvalSettings, "baseline_lrs", (0.1, 1e39)),
    ):
        with pytest.raises(ValueError, match="must be"):
            evolve(cls(), **{option: value})
    assert ExpertSettings(seed=2**63 - 1, lr=3e38).seed == 2**63 - 1
