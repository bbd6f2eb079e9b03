"""Ratios of times: what is compared runs in turn, so that whatever else the machine does meets both sides."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from attrs import asdict, frozen


@frozen(kw_only=True)
class Ratio:
    """Times of one thing over times of another, pair by pair.

    Args:
        median: of the pairs' ratios.
        low: their lower quartile.
        high: their upper quartile.
        pairs: how many.
        seconds: median time of the one.
        reference_seconds: median time of the other.
    """

    median: float
    low: float
    high: float
    pairs: int
    seconds: float
    reference_seconds: float

    def record(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)


def pairs(
    one: Callable[[], object],
    reference: Callable[[], object],
    count: int,
    device: torch.device,
    tick: Callable[[], None] = lambda: None,
) -> Ratio:
    """Times two things in turn, each once before that; who goes first changes from pair to pair.

    Args:
        one: what is measured.
        reference: what it is measured against.
        count: pairs.
        device: waited for before the clock is read.
        tick: told after each pair.
    """
    one()
    reference()
    times: list[tuple[float, float]] = []
    for number in range(count):
        if number % 2:
            second = seconds(reference, device)
            times.append((seconds(one, device), second))
        else:
            first = seconds(one, device)
            times.append((first, seconds(reference, device)))
        tick()
    ratios = sorted(mine / other for mine, other in times)
    quarter = statistics.quantiles(ratios, n=4) if count > 1 else [ratios[0]] * 3
    return Ratio(
        median=statistics.median(ratios),
        low=quarter[0],
        high=quarter[2],
        pairs=count,
        seconds=statistics.median(mine for mine, _ in times),
        reference_seconds=statistics.median(other for _, other in times),
    )


def seconds(work: Callable[[], object], device: torch.device) -> float:
    """Wall-clock seconds of one call; a GPU is waited for before and after."""
    _wait(device)
    began = time.perf_counter()
    work()
    _wait(device)
    return time.perf_counter() - began


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
