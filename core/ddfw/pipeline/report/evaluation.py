"""What `ddfw eval` found: its record, and the file that is written beside a run's own evaluation."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attrs import field, frozen

from ddfw.artifacts import atomic, seal
from ddfw.artifacts.run_seals import EVAL_FILE_SCHEMA
from ddfw.errors import DataError
from ddfw.pipeline.report.summary import eval_record

if TYPE_CHECKING:
    from ddfw.contracts.observer import EvaluationReport


@frozen(kw_only=True)
class Evaluation:
    """What `ddfw eval` found.

    Args:
        reports: the report of the evaluated set, then those of the baselines.
        cross: such reports for each network of `[cross]`, by its key there.
        scores: DD-Ranking's scores, {} if they were not asked for.
        directory: the run's directory, None if another set was evaluated.
        lr: the learning rate that was asked for, None for the set's own.
        protocol: network, augmentation and [eval] of these figures.
        own_protocol: whether the protocol is the run's own.
        request: what was asked for beside the set's own figures.
        diverged: networks of [cross] that diverged.
    """

    reports: tuple[EvaluationReport, ...]
    cross: Mapping[str, tuple[EvaluationReport, ...]]
    scores: Mapping[str, float]
    directory: Path | None
    lr: float | None = None
    protocol: Mapping[str, Any] = field(factory=dict)
    own_protocol: bool = True
    request: tuple[str, ...] = ()
    diverged: tuple[Mapping[str, str], ...] = ()

    def record(self) -> dict[str, Any]:
        """The report of the set as in a run's eval/*.json, with those of baselines and other networks, and scores."""
        record = eval_record(self.reports[0])
        if others := [eval_record(r) for r in self.reports[1:]]:
            record["baselines"] = others
        if self.cross:
            record["cross"] = [eval_record(r) for reports in self.cross.values() for r in reports]
        if self.diverged:
            record["cross_diverged"] = [dict(d) for d in self.diverged]
        record["protocol"] = dict(self.protocol)
        if self.scores:
            record["scores"] = dict(self.scores)
        return record


def write_again(run: Path, found: Evaluation) -> tuple[Path, dict[str, Any]]:
    """Writes a later evaluation of a run's set into the run's folder eval/; returns the path and the content.

    Raises:
        DataError: the folder is a link that leads out of the run.
    """
    report, record = found.reports[0], seal.sealed({**found.record(), "schema": EVAL_FILE_SCHEMA})
    rate = "" if found.lr is None else f"-lr{found.lr:g}"
    if not found.own_protocol or found.request:  # other figures, or more of them, stand beside the first ones
        asked = json.dumps([found.protocol, found.request], sort_keys=True)
        rate += f"-{hashlib.sha256(asked.encode()).hexdigest()[:6]}"
    path = run / "eval" / f"again-{report.net}-seed{report.eval_seed}-n{report.n}{rate}.json"
    path.parent.mkdir(exist_ok=True)
    if not path.parent.resolve().is_relative_to(run.resolve()):
        raise DataError(f"{path.parent} is a link that leads out of the run; write the figures by --out")
    atomic.write_json(path, record)
    return path, record
