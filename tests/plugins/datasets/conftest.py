"""Fixtures of the data sets' tests: tiny official files, and the real ones where they lie on this machine."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

import pytest


def _module(path):
    spec = importlib.util.spec_from_file_location(f"of_the_data_tests_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def tiny(official_files, tmp_path, monkeypatch):
    """Writes a tiny data set below `root` and returns that root."""

    def write(name):
        official_files.prepare(name, tmp_path / "root", monkeypatch)
        return tmp_path / "root"

    return write


@pytest.fixture(scope="session")
def real_data():
    """The folder of real data: DDFW_DATA, or shared/data beside the checkout."""
    for place in (os.environ.get("DDFW_DATA"), Path(__file__).parents[4] / "shared" / "data"):
        if place and Path(place).is_dir():
            return Path(place)
    pytest.skip("no real data: neither DDFW_DATA nor ../shared/data")


@pytest.fixture(scope="session")
def real_unpack(real_data):
    """The module that decodes the stored pieces."""
    if not (real_data / "unpack.py").is_file():
        pytest.skip("the real data come without unpack.py")
    writes, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        return _module(real_data / "unpack.py")
    finally:
        sys.dont_write_bytecode = writes


@pytest.fixture(scope="session")
def real_cifar10(real_data, tmp_path_factory, request):
    """A data root with the official CIFAR-10, rebuilt from lossless pieces once if need be."""
    if (real_data / "cifar-10-batches-py").is_dir():
        return real_data
    pieces = real_data / "cifar10"
    if not pieces.is_dir():
        pytest.skip("no real CIFAR-10 here")
    unpack, root = request.getfixturevalue("real_unpack"), tmp_path_factory.mktemp("cifar10")
    folder = root / "cifar-10-batches-py"
    folder.mkdir()
    for zipped in sorted(pieces.glob("*_batch*.zip")):
        images, _, _, head, tail = unpack.load(zipped)
        (folder / zipped.stem).write_bytes(head + images.transpose(0, 3, 1, 2).tobytes() + tail)
    (folder / "batches.meta").write_bytes((pieces / "batches.meta").read_bytes())
    return root
