"""Every test here works in a folder of its own, and sees a plain terminal."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def alone(plain_terminal, here) -> None:
    """Nothing of the developer's environment or folder is seen."""
