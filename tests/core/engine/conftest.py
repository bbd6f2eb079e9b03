"""What the tests of the engine share."""

from __future__ import annotations

import pytest

from ddfw.engine.budget import LiveBytes


@pytest.fixture
def live_bytes():
    """The counter, as a context manager: `with live_bytes() as count: …; count.peak`."""
    return LiveBytes
