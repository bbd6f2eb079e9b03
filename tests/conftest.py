"""Fixtures that several folders use; among them the command line in this process, and tiny runs."""

from __future__ import annotations

import atexit
import contextlib
import importlib.util
import io
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import attrs
import pytest

# The networks of the tests are tiny: sharing an operation between threads costs more than it gains.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Where a test has several threads, those that wait leave the cores to the other workers.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
# Nothing is written to the developer's own cache; processes that tests start, and all workers, share this one.
os.environ["XDG_CACHE_HOME"] = _CACHE = os.environ.get("DDFW_TESTS_CACHE") or tempfile.mkdtemp(prefix="ddfw-tests-")
os.environ["DDFW_TESTS_CACHE"] = _CACHE
# Nor do runs of tests count as runs of the developer's.
os.environ["XDG_STATE_HOME"] = f"{_CACHE}/state"
if "PYTEST_XDIST_WORKER" not in os.environ:
    atexit.register(shutil.rmtree, _CACHE, ignore_errors=True)

GOLDEN = Path(__file__).parent / "golden"


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skips tests marked `gpu` where PyTorch can use none."""
    if item.get_closest_marker("gpu"):
        import torch

        if not torch.cuda.is_available():
            pytest.skip("needs an NVIDIA GPU that PyTorch can use")


@pytest.fixture
def golden():
    """Loads a golden file as a dict of arrays."""
    import numpy as np

    def load(name: str) -> dict[str, np.ndarray]:
        with np.load(GOLDEN / f"{name}.npz", allow_pickle=False) as archive:
            return {key: archive[key] for key in archive.files}

    return load


@pytest.fixture
def official_files():
    """The module that writes tiny files in the forms of the official data sets."""
    path = Path(__file__).parent / "plugins" / "datasets" / "official_files.py"
    spec = importlib.util.spec_from_file_location("official_files", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def unsealed() -> Callable[[Path], None]:
    """Makes a run's manifest what earlier versions wrote: it seals neither itself nor the files with figures."""

    def unseal(run: Path) -> None:
        path = run / "manifest.json"
        manifest = json.loads(path.read_text(encoding="utf-8"))
        for key in ("seal", "metrics.jsonl", "config_sha256"):
            del manifest[key]
        outputs = {k: v for k, v in manifest["outputs"].items() if k.startswith(("synthetic/", "images/", "steps/"))}
        path.write_text(json.dumps({**manifest, "schema": 1, "outputs": outputs}, indent=2) + "\n", encoding="utf-8")
        shutil.rmtree(run / "checkpoints", ignore_errors=True)

    return unseal


#: A run of a fraction of a second; one thread, because tiny tensors are slower on several.
TINY = [
    f"--set={setting}"
    for setting in (
        "model.depth=2",
        "model.width=4",
        "experts.count=2",
        "experts.epochs=3",
        "outer.steps=3",
        "outer.syn_steps=3",
        "eval.networks=2",
        "eval.epochs=3",
        "eval.full_epochs=1",
        "eval.every=2",
        "window.max_start=1",
        "param.rank=4",
        "executor.threads=1",
    )
]


@attrs.frozen
class Said:
    """What a command answered."""

    code: int
    out: str
    err: str

    @property
    def events(self) -> list[dict]:
        return [json.loads(line) for line in self.out.splitlines()]

    def refused(self, code: int, *words: str) -> str:
        """Checks an error's form: the exit code, one to six lines on standard error, no traceback; returns it."""
        assert self.code == code, self.err
        assert self.out == ""
        assert 1 <= len(self.err.splitlines()) <= 6, self.err
        assert "Traceback" not in self.err and "internal error" not in self.err
        assert "\x1b" not in self.err
        for word in words:
            assert word in self.err, self.err
        return self.err


def call(*arguments: object) -> Said:
    from ddfw.cli.main import invoke

    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
        code = invoke([str(a) for a in arguments])
    return Said(code, out.getvalue(), err.getvalue())


@pytest.fixture(scope="session")
def plain_terminal() -> Iterator[None]:
    """Nothing of the developer's environment shapes what is printed."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("FORCE_COLOR", "CLICOLOR_FORCE", "TTY_COMPATIBLE", "TTY_INTERACTIVE", "DDFW_DATA"):
            patch.delenv(name, raising=False)
        patch.setenv("COLUMNS", "200")
        yield


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every test works in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="session")
def ddfw(plain_terminal) -> Callable[..., Said]:
    """Runs a command line in this process."""
    return call


@pytest.fixture(scope="session")
def tiny() -> list[str]:
    """`run` with everything small; the recipe is named, so that tuned ones do not join in."""
    return ["run", "default", "--param", "lss", "--traj", "mct", *TINY]


@pytest.fixture(scope="session")
def finished(plain_terminal, tmp_path_factory: pytest.TempPathFactory, tiny: list[str]) -> SimpleNamespace:
    """A finished run as people start it: directory, expert cache, the words that started it, what it said."""
    place = tmp_path_factory.mktemp("finished")
    arguments = [*tiny, "--out", str(place / "run"), "--experts-dir", str(place / "experts")]
    said = call(*arguments)
    assert said.code == 0, said.err
    return SimpleNamespace(out=place / "run", experts=place / "experts", arguments=arguments, said=said)


@pytest.fixture(scope="session")
def streamed(plain_terminal, tmp_path_factory: pytest.TempPathFactory, tiny: list[str]) -> SimpleNamespace:
    """The same run as programs start it: `--json`, in another place with a fresh expert cache."""
    place = tmp_path_factory.mktemp("streamed")
    arguments = [*tiny, "--out", str(place / "run"), "--experts-dir", str(place / "experts"), "--json"]
    said = call(*arguments)
    assert said.code == 0, said.err
    return SimpleNamespace(out=place / "run", experts=place / "experts", arguments=arguments, said=said)


@pytest.fixture(scope="session")
def two_archives(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """scikit-learn's digits as .npz, twice: the second has its test labels permuted."""
    import numpy as np
    from sklearn.datasets import load_digits

    place = tmp_path_factory.mktemp("archives")
    bunch = load_digits()
    images, labels = bunch.images.astype(np.uint8), bunch.target
    arrays = {"train_images": images[:600], "train_labels": labels[:600], "test_images": images[600:900]}
    permuted = np.random.default_rng(0).permutation(labels[600:900])
    np.savez(place / "plain.npz", **arrays, test_labels=labels[600:900])
    np.savez(place / "permuted.npz", **arrays, test_labels=permuted)
    return place / "plain.npz", place / "permuted.npz"
