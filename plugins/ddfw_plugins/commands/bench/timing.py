"""Ratios of times: what is compared runs in turn, so that whatever else the machine does meets both sides."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch
from attrs import frozen


@frozen(kw_only=True)
class TimeRatio:
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


def time_pairs(
    work: Callable[[], object], reference: Callable[[], object], count: int, device: torch.device
) -> TimeRatio:
    """Times two things in turn, each once before that; who goes first changes from pair to pair.

    Args:
        work: what is measured.
        reference: what it is measured against.
        count: pairs.
        device: waited for before the clock is read.
    """
    work()
    reference()
    ours, theirs = list[float](), list[float]()
    for number in range(count):
        sides = [(work, ours), (reference, theirs)]
        for call, times in reversed(sides) if number % 2 else sides:
            times.append(seconds_of(call, device))
    ratios = [one / other for one, other in zip(ours, theirs, strict=True)]
    quarters = statistics.quantiles(ratios, n=4) if count > 1 else ratios * 3
    return TimeRatio(
        median=statistics.median(ratios),
        low=quarters[0],
        high=quarters[2],
        pairs=count,
        seconds=statistics.median(ours),
        reference_seconds=statistics.median(theirs),
    )


def seconds_of(work: Callable[[], object], device: torch.device) -> float:
    """Wall-clock seconds of one call; a GPU is waited for before and after."""
    _wait(device)
    began = time.perf_counter()
    work()
    _wait(device)
    return time.perf_counter() - began


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
