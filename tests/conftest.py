"""Fixtures that several folders use."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import pytest

# The networks of the tests are tiny: sharing an operation between threads costs more than it gains.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Where a test has several threads, those that wait leave the cores to the other workers.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

GOLDEN = Path(__file__).parent / "golden"


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
