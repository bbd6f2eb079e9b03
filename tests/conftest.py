"""Fixtures that several folders use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

# The networks of the tests are tiny: sharing an operation between threads costs more than it gains.
os.environ.setdefault("OMP_NUM_THREADS", "1")

GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture
def golden():
    """Loads a golden file as a dict of arrays."""
    import numpy as np

    def load(name: str) -> dict[str, np.ndarray]:
        with np.load(GOLDEN / f"{name}.npz", allow_pickle=False) as archive:
            return {key: archive[key] for key in archive.files}

    return load
