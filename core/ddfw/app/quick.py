"""`--quick`: any configuration scaled down so that it ends in minutes on two cores.

A recipe's own quick table comes first, and its word stands; what else is large is cut to the caps below. What the user
said by a flag or by --set stays.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
from attrs import evolve

from ddfw.app.config import RunConfig
from ddfw.app.plan import at
from ddfw.app.sources import QUICK, Settings

#: Training images in all, and the least of each class.
IMAGES, LEAST_PER_CLASS = 10_000, 20
#: The largest value of each number that decides how long a run takes.
CAPS: Mapping[str, Mapping[str, int]] = {
    "model": {"width": 32},
    "experts": {"count": 3, "epochs": 10, "batch_size": 64},
    "traj": {"expert_epochs": 2},
    "outer": {"steps": 60, "syn_steps": 20, "batch_syn": 50, "segments_per_step": 1},
    "window": {"max_start": 3, "expand_steps": 30},
    "eval": {"networks": 3, "epochs": 100, "select_epochs": 100, "every": 20, "select_networks": 1, "full_epochs": 10},
}
#: Whose word stands.
_SAID = (QUICK, "flag", "--set")


def scaled(config: RunConfig, settings: Settings, data_root: Path | None) -> RunConfig:
    """The configuration with every number cut to its cap, unless the recipe's quick table or the user said it.

    Args:
        config: structured from `settings`, which hold the recipe's quick table.
        settings: know who said what.
        data_root: where the data set looks for its files; it is loaded to count its images.

    Raises:
        ConfigError, DataError: the data set cannot be loaded.
    """
    said = {path for path, origin in settings.origins.items() if origin in _SAID}
    for table, caps in CAPS.items():
        config = evolve(config, **{table: _capped(getattr(config, table), table, caps, said)})
    cross = {key: _capped(model, f"cross.{key}", CAPS["model"], said) for key, model in config.cross.items()}
    config = evolve(config, cross=cross, data=_fewer(config.data, said, data_root))
    return evolve(config, window=_within(config.window, config.traj.latest_high(config.experts.epochs)))


def changes(before: Mapping[str, Any], after: Mapping[str, Any], path: str = "") -> list[str]:
    """What differs between two configuration documents, one text for each value: `experts.count 100 → 3`."""
    found = []
    for key in [*before, *(k for k in after if k not in before)]:
        here = f"{path}.{key}" if path else key
        old, new = before.get(key), after.get(key)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            found += changes(old, new, here)
        elif old != new and here != "run.quick":
            found.append(f"{here} {_text(old)} → {_text(new)}")
    return found


def _text(value: object) -> str:
    if value is None:
        return "unset"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _capped(component: Any, table: str, caps: Mapping[str, int], said: set[str]) -> Any:
    """A component or record with its large numbers cut; options that it does not have are passed over."""
    known = {field.name for field in attrs.fields(type(component))}
    new = {
        name: cap
        for name, cap in caps.items()
        if name in known and f"{table}.{name}" not in said and _above(getattr(component, name), cap)
    }
    if table == "window" and "max_start" in new:
        new["start"] = min(component.start, new["max_start"])
        new["min_start"] = min(component.min_start, new["start"] - 1)
    return evolve(component, **new) if new else component


def _above(value: object, cap: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > cap


def _fewer(data: Any, said: set[str], data_root: Path | None) -> Any:
    """The data set with as many images of each class as make `IMAGES` in all, if it has more."""
    if data.per_class is not None or "data.per_class" in said:
        return data
    with at("data"):
        counts = data.splits(data_root).class_counts()
    wanted = max(LEAST_PER_CLASS, IMAGES // len(counts))
    return evolve(data, per_class=wanted) if min(counts) > wanted else data


def _within(window: Any, latest: float) -> Any:
    """The window closed where the shorter experts end."""
    high = max(1, int(latest))
    if window.max_start <= high:
        return window
    start = min(window.start, high)
    return evolve(window, max_start=high, start=start, min_start=min(window.min_start, start - 1))
