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

from ddfw.config.layers import QUICK, Settings
from ddfw.config.run_config import RunConfig
from ddfw.contracts.settings import WindowSettings
from ddfw.errors import DataError, OptionError, option_errors_at

#: Training images in all, and the least of each class.
IMAGES, LEAST_PER_CLASS = 10_000, 20
#: The largest value of each number that decides how long a run takes.
CAPS: Mapping[str, Mapping[str, int]] = {
    "model": {"width": 32},
    "experts": {"count": 3, "epochs": 10, "batch_size": 64},
    "traj": {"expert_epochs": 4},
    "outer": {"steps": 120, "syn_steps": 20, "batch_syn": 50, "segments_per_step": 1},
    "eval": {"networks": 3, "epochs": 100, "select_epochs": 100, "every": 20, "select_networks": 1, "full_epochs": 10},
}
#: Classes where the data are not there to count them, at least.
FEWEST_CLASSES = 10
#: The window's upper end, and the steps until it is there.
MAX_START, EXPAND_STEPS = 3, 30
#: A fresh network sees this many learned images of 32×32 pixels, in at least so many passes.
SEEN, FEWEST_PASSES = 20_000, 20
_USERS = ("flag", "--set")


def scaled(config: RunConfig, full: RunConfig, settings: Settings, data_root: Path | None) -> RunConfig:
    """The configuration with every number cut to its cap, unless the recipe's quick table or the user said it.

    Args:
        config: structured from `settings`, which hold the recipe's quick table.
        full: the same without that table; its window is not widened.
        settings: know who said what.
        data_root: where the data set looks for its files; it is loaded to count its images.

    Raises:
        ConfigError, DataError: the data set cannot be loaded.
    """
    user = {path for path, origin in settings.origins.items() if origin in _USERS}
    said = user | {path for path, origin in settings.origins.items() if origin == QUICK}
    for table, caps in CAPS.items():
        config = evolve(config, **{table: _capped(getattr(config, table), table, caps, said)})
    cross = {key: _capped(model, f"cross.{key}", CAPS["model"], said) for key, model in config.cross.items()}
    config = evolve(config, cross=cross)
    config, images, size = _fewer(config, data_root, keep="data.per_class" in said)
    batch = CAPS["outer"]["batch_syn"]
    if not config.outer.batch_syn and images > batch and "outer.batch_syn" not in said:  # 0 means all images
        config = evolve(config, outer=evolve(config.outer, batch_syn=batch))
    passes = {name: max(FEWEST_PASSES, int(SEEN / (images * size))) for name in ("epochs", "select_epochs")}
    config = evolve(config, eval=_capped(config.eval, "eval", passes, user))
    latest = config.traj.latest_high(config.experts.epochs)
    window = {path.removeprefix("window.") for path in user if path.startswith("window.")}
    return evolve(config, window=_within(config.window, full.window, latest, window))


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
    return evolve(component, **new) if new else component


def _above(value: object, cap: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > cap


def _fewer(config: RunConfig, data_root: Path | None, *, keep: bool) -> tuple[RunConfig, int, float]:
    """As many images of each class as make `IMAGES` in all, if there are more.

    Args:
        config: the configuration.
        data_root: where the data set looks for its files.
        keep: leave the number of real images; data that are not there are then no fault here.

    Returns:
        The configuration, how many images will be learned, and how large each is (1: 32×32 pixels or fewer).
    """
    try:
        with option_errors_at("data"):
            splits = config.data.splits(data_root)
    except DataError:
        if keep:
            return config, FEWEST_CLASSES * config.budget.ipc, 1.0
        raise
    counts, spec = splits.class_counts(), splits.spec
    # The choice is balanced, so a rare class decides, unless it is so rare that little would be left.
    wanted = min(max(LEAST_PER_CLASS, IMAGES // len(counts)), min(counts))
    if not keep and sum(counts) > IMAGES and wanted >= LEAST_PER_CLASS:
        config = evolve(config, data=evolve(config.data, per_class=wanted))
    size = max(1.0, spec.height * spec.width / 32**2)
    try:
        layout = config.param.layout(spec, config.budget, config.labels.floats_per_image(spec))
    except OptionError:  # the run will say so
        return config, 1, size
    return config, layout.num_images, size


def _within(window: WindowSettings, full: WindowSettings, latest: float, user: set[str]) -> WindowSettings:
    """The window of a short run: no wider than the full one's, closed where the shorter experts end.

    Args:
        window: with the recipe's quick table.
        full: without it.
        latest: where segments of the shorter experts start at the latest.
        user: options that the user said, for which the others make room.
    """
    high = min(window.max_start, full.max_start, MAX_START, max(1, int(latest)))
    if "min_start" in user:
        high = max(high, window.min_start + 1)
    if "start" in user:
        high = max(high, window.start)
    if "max_start" in user:
        high = window.max_start
    start = window.start if "start" in user else min(window.start, high)
    if "min_start" in user and "start" not in user:
        start = max(start, window.min_start + 1)
    return WindowSettings(
        min_start=window.min_start if "min_start" in user else min(window.min_start, start - 1),
        start=start,
        max_start=high,
        expand_steps=window.expand_steps
        if "expand_steps" in user
        else min(window.expand_steps, full.expand_steps, EXPAND_STEPS),
    )
