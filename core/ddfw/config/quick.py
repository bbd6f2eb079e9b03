"""`--quick`: any configuration scaled down so that it ends in minutes on two cores.

A recipe's quick table is applied first, and its values stay. Other large numbers are cut to the caps in this module,
except those that the user set by a flag or by --set.
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

#: Most training images in all, and fewest training images of each class, that are kept.
IMAGES, LEAST_PER_CLASS = 10_000, 20
#: The largest value of each number that decides how long a run takes.
CAPS: Mapping[str, Mapping[str, int]] = {
    "model": {"width": 32},
    "experts": {"count": 3, "epochs": 10, "batch_size": 64},
    "traj": {"expert_epochs": 4},
    "outer": {"steps": 120, "syn_steps": 20, "batch_syn": 50, "segments_per_step": 1},
    "eval": {"networks": 3, "epochs": 100, "select_epochs": 100, "every": 20, "select_networks": 1, "full_epochs": 10},
}
#: Number of classes that is assumed where the data are missing.
FEWEST_CLASSES = 10
#: Largest `window.max_start` (epochs) and `window.expand_steps` (outer steps).
MAX_START, EXPAND_STEPS = 3, 30
#: Learned images of 32×32 pixels on which a fresh network is trained, counted over all passes; fewest passes.
SEEN, FEWEST_PASSES = 20_000, 20
_USERS = ("flag", "--set")


def scaled(config: RunConfig, full: RunConfig, settings: Settings, data_root: Path | None) -> RunConfig:
    """The configuration with every number cut to its cap, unless the recipe's quick table or the user set it.

    Args:
        config: the configuration with the recipe's quick table applied.
        full: the configuration without the quick table; the window never becomes wider than in it.
        settings: the merged settings of `config`, which say which layer set each value.
        data_root: folder in which the data set looks for its files; it is loaded to count its images.

    Raises:
        ConfigError: options do not fit the data set.
        DataError: the data set is missing or damaged.
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
    """Lists the differences between two configurations as tables: `experts.count 100 → 3` for each value."""
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
    """A component or settings record with its large numbers cut; caps of options that it lacks are ignored."""
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
    """Limits the real training images to about `IMAGES`, with the same number of each class.

    Args:
        config: the configuration to limit.
        data_root: folder in which the data set looks for its files.
        keep: do not limit them; a missing data set is then no error.

    Returns:
        The configuration, the number of learned images, and the size of each in units of 32×32 pixels, at least 1.
    """
    try:
        with option_errors_at("data"):
            splits = config.data.splits(data_root)
    except DataError:
        if keep:
            return config, FEWEST_CLASSES * config.budget.ipc, 1.0
        raise
    counts, spec = splits.class_counts(), splits.spec
    # Every class gets as many images as the rarest one has, unless that would leave too few.
    wanted = min(max(LEAST_PER_CLASS, IMAGES // len(counts)), min(counts))
    if not keep and sum(counts) > IMAGES and wanted >= LEAST_PER_CLASS:
        config = evolve(config, data=evolve(config.data, per_class=wanted))
    size = max(1.0, spec.height * spec.width / 32**2)
    try:
        layout = config.param.layout(spec, config.budget, config.labels.floats_per_image(spec))
    except OptionError:  # the run itself reports this error
        return config, 1, size
    return config, layout.num_images, size


def _within(window: WindowSettings, full: WindowSettings, latest: float, user: set[str]) -> WindowSettings:
    """The window of a scaled-down run: no wider than in the full run, and within the shorter experts.

    Args:
        window: the window settings with the recipe's quick table applied.
        full: the window settings without the quick table.
        latest: upper end (excluded) of the epochs at which segments of the shorter experts may start.
        user: names of window options that the user set; the other options are adjusted to them.
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
