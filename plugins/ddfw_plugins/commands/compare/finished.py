"""Finished runs of a comparison as comparison.json keeps them: all that tables, curves and contrasts need.

A comparison goes on wherever its comparison.json is: a run that stands in it is not run again, whether its directory is
there or not.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from attrs import evolve, frozen

import ddfw

#: Hashes in a run's manifest that say what it was made of.
_SOURCES = ("data_sha256", "test_sha256", "init_from_sha256", "init_from_set_sha256")


@frozen(kw_only=True)
class Look:
    """What a run's set was worth at one of its selections, and how the steps before it went.

    Args:
        step: number of outer steps that were done.
        accuracy: mean accuracy of fresh networks on the validation split, a fraction.
        loss: mean matching loss of the outer steps since the look before; None at the start.
        step_size: the inner step size after that step; None at the start.
    """

    step: int
    accuracy: float
    loss: float | None
    step_size: float | None


@frozen(kw_only=True)
class FinishedRun:
    """A finished run of a variant.

    Args:
        variant: the variant's name.
        seed: the run seed.
        settings: hash of the configuration, without options that change no result.
        sources: hashes of the data, and of a set to start from, by their names in a manifest.
        versions: of ddfw, torch and others, as in the manifest.
        networks: networks of the final evaluation.
        look_networks: networks of each look.
        space: training space.
        step_gradients: images whose gradient one outer step computed, over its segments and inner steps.
        summary: what the run found, as in its summary.json.
        curve: its selections, the start first.
    """

    variant: str
    seed: int
    settings: str
    sources: Mapping[str, str]
    versions: Mapping[str, str]
    networks: int
    look_networks: int
    space: str
    step_gradients: int
    summary: ddfw.Summary
    curve: tuple[Look, ...]

    @property
    def accuracy(self) -> float:
        """Mean test accuracy of networks trained on the learned set, a fraction."""
        return self.summary.distilled.mean

    def to_json(self) -> dict[str, Any]:
        """The run as it stands in comparison.json."""
        return {
            **{name: getattr(self, name) for name in _PLAIN},
            "look_networks": self.look_networks,
            "sources": dict(self.sources),
            "versions": dict(self.versions),
            "summary": self.summary.to_json(),
            "curve": {name: [getattr(look, name) for look in self.curve] for name in _COLUMNS},
        }

    @classmethod
    def from_json(cls, table: Mapping[str, Any]) -> FinishedRun:
        """The run that comparison.json holds.

        Raises:
            KeyError, TypeError, ValueError: a part is missing or garbled.
        """
        columns = [table["curve"][name] for name in _COLUMNS]
        looks = [Look(**dict(zip(_COLUMNS, row, strict=True))) for row in zip(*columns, strict=True)]
        return cls(
            **{name: table[name] for name in (*_PLAIN, "look_networks", "sources", "versions")},
            summary=ddfw.Summary.from_json(table["summary"]),
            curve=tuple(looks),
        )


_PLAIN = ("variant", "seed", "settings", "networks", "space", "step_gradients")
_COLUMNS = ("step", "accuracy", "loss", "step_size")


@frozen(kw_only=True)
class Trial:
    """A setting that a variant has tried. Its networks on the test split are nobody's figure, so none is kept.

    Args:
        variant: the variant's name.
        number: which of the variant's settings, from 0.
        values: the setting, {dotted path: value}.
        settings: hash of the configuration, as of a `FinishedRun`.
        sources: hashes of the data, as of a `FinishedRun`.
        accuracy: best accuracy on the validation split, a fraction; None if the run diverged.
    """

    variant: str
    number: int
    values: Mapping[str, Any]
    settings: str
    sources: Mapping[str, str]
    accuracy: float | None

    def to_json(self) -> dict[str, Any]:
        """The trial as it stands in comparison.json."""
        own = {name: getattr(self, name) for name in ("variant", "number", "settings", "accuracy")}
        return {**own, "values": dict(self.values), "sources": dict(self.sources)}


def settings_sha256(config: ddfw.RunConfig) -> str:
    """The hash of a configuration, without options of its executor that change no result."""
    tables = dict(ddfw.as_table(config))
    ignored = config.executor.without_effect
    tables["executor"] = {key: value for key, value in tables["executor"].items() if key not in ignored}
    return hashlib.sha256(json.dumps(tables, sort_keys=True).encode()).hexdigest()


def sources_of(directory: Path) -> dict[str, str]:
    """What the run in a directory was made of.

    Raises:
        DataError: its manifest is damaged.
    """
    manifest = ddfw.read_run(directory).manifest
    return {key: manifest[key] for key in _SOURCES if key in manifest}


def finished_run(variant: str, config: ddfw.RunConfig, result: ddfw.RunResult, step_gradients: int) -> FinishedRun:
    """A finished run, read from its directory.

    Args:
        variant: the variant's name.
        config: the run's configuration.
        result: the run.
        step_gradients: images whose gradient one outer step computed.

    Raises:
        DataError: a file of the run is damaged.
    """
    record = ddfw.read_run(result.directory)
    return FinishedRun(
        variant=variant,
        seed=config.run.seed,
        settings=settings_sha256(config),
        sources=sources_of(result.directory),
        versions=dict(record.manifest.get("versions", {})),
        networks=config.eval.networks,
        look_networks=config.eval.select_networks,
        space=config.data.space,
        step_gradients=step_gradients,
        summary=_without_places(result.summary, result.directory.resolve().parent.parent),
        curve=_looks(record),
    )


def _without_places(summary: ddfw.Summary, folder: Path) -> ddfw.Summary:
    """A summary whose rows name the runs that measured them before by their place in the comparison's folder.

    comparison.json is given to people who do not have the folders of this machine. Of a run outside the comparison's
    folder the name alone is kept.
    """

    def named(source: str) -> str:
        path = Path(source)
        return path.relative_to(folder).as_posix() if path.is_relative_to(folder) else path.name

    return evolve(summary, rows=tuple(evolve(r, source=named(r.source)) if r.source else r for r in summary.rows))


def _looks(record: ddfw.RunRecord) -> tuple[Look, ...]:
    """The selections of a run, with the mean loss of the steps between them."""
    curves, looks, before = record.curves, list[Look](), 0
    for point in curves.validation:
        losses = [loss for step, loss in curves.loss.items() if before < step <= point.step and math.isfinite(loss)]
        looks.append(
            Look(
                step=point.step,
                accuracy=point.mean,
                loss=_short(sum(losses) / len(losses)) if losses else None,
                step_size=_short(curves.step_size[point.step]) if point.step in curves.step_size else None,
            )
        )
        before = point.step
    return tuple(looks)


def _short(value: float) -> float:
    """A figure with six digits, enough for a curve."""
    return float(f"{value:.6g}")


def kept_before(path: Path, newest: int) -> tuple[list[FinishedRun], list[Trial]]:
    """The runs and trials that stand in a comparison.json; none where it is missing, damaged or of an earlier version.

    Args:
        path: the file.
        newest: the newest schema that is known.
    """
    if not path.is_file():
        return [], []
    try:
        record = ddfw.read_sealed(path, since=2, newest=newest)
        runs = [FinishedRun.from_json(table) for table in record.get("runs", ())]
        return runs, [Trial(**table) for table in record.get("trials", ())]
    except (ddfw.DataError, KeyError, TypeError, ValueError):
        return [], []  # `warn_if_damaged` has said so


def by_variant(runs: Sequence[FinishedRun], order: Sequence[str]) -> dict[str, list[FinishedRun]]:
    """Runs by their variant, in the order of the variants and of the seeds; variants without runs are left out."""
    found = {name: sorted((run for run in runs if run.variant == name), key=lambda run: run.seed) for name in order}
    return {name: there for name, there in found.items() if there}
