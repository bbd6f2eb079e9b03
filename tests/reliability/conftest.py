"""What the tests of reliability share: a small and a large count of one test, and a record of its figures.

`poe reliability` runs them with the large counts, and writes the figures that stand in docs/reliability.md.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def size() -> Callable[[int, int], int]:
    """Picks the count of a test: the small one, or the large one under `poe reliability`."""
    large = os.environ.get("DDFW_TESTS_LARGE") == "1"
    return lambda small, big: big if large else small


@pytest.fixture
def figures(request: pytest.FixtureRequest) -> Callable[..., None]:
    """Records what a test counted and measured, one JSON line a call, in the file that DDFW_TESTS_FIGURES names."""
    place = os.environ.get("DDFW_TESTS_FIGURES", "")

    def record(**facts: object) -> None:
        if place:
            with Path(place).open("a", encoding="utf-8") as file:
                file.write(json.dumps({"test": request.node.nodeid.rpartition("/")[2], **facts}) + "\n")

    return record
