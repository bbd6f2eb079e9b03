"""Ratios of times: both sides run in turn, so that other load on the machine slows both alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch
from attrs import frozen


@frozen(kw_only=True)
class TimeRatio:
    """Ratios of the times of some work to the times of its reference, measured in pairs.

    Args:
        median: median of the ratios.
        low: lower quartile of the ratios.
        high: upper quartile of the ratios.
        pairs: number of pairs.
        seconds: median time of the work, in seconds.
        reference_seconds: median time of the reference, in seconds.
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
    """Times two functions in turn, after one untimed call of each; which is called first alternates.

    Args:
        work: the function to measure.
        reference: the function to compare it with.
        count: number of pairs.
        device: the device that both use; work on it is finished before the clock is read.
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
    """Wall-clock seconds of one call of `work`; a GPU finishes its work before the clock is read."""
    _wait(device)
    began = time.perf_counter()
    work()
    _wait(device)
    return time.perf_counter() - began


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
