"""Rows of baselines that another run has measured under the same conditions: they are taken and not measured again.

A row depends on the data, the training space, the network, the augmentation, the settings of training and evaluation,
the images and labels themselves, and on device, threads and versions. Two rows that agree in all of these are equal bit
for bit, so a run has the same figures with the cache and without.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
from attrs import frozen

from ddfw.artifacts.row_cache import CachedRow, read_row, write_row
from ddfw.config.catalog import as_table, catalog
from ddfw.config.fingerprints import sha256_of, source_sha256
from ddfw.contracts.executor import Crew
from ddfw.pipeline.resume import surroundings

if TYPE_CHECKING:
    from torch import Tensor

    from ddfw.contracts.executor import ExecutorSession
    from ddfw.contracts.observer import EvaluationReport
    from ddfw.pipeline.evaluation.baselines import Subject
    from ddfw.pipeline.prepare import Setup


@frozen(kw_only=True)
class KnownRows:
    """The rows that were measured before, for one run.

    Args:
        experts: the folder of expert stores, beside which they lie.
        run: path of this run, which new rows name as the one that read the test split.
        surroundings: device, threads and versions, as `resume.surroundings` gives them.
        crew: the processes that work on the run: rank 0 reads and writes, and all ranks get the same answer.
    """

    experts: Path
    run: str
    surroundings: Mapping[str, Any]
    crew: Crew

    def find(self, setup: Setup, subject: Subject) -> CachedRow | None:
        """The row of a baseline; None if it has to be measured.

        Args:
            setup: configuration and data, with the network that is evaluated as `config.model`.
            subject: the baseline, before its learning rate is chosen.
        """
        key = self._key(setup, subject) if self.crew.rank == 0 else None
        row = None if key is None else read_row(self.experts, key)
        shared = self.crew.share(None if row is None else attrs.asdict(row))
        if shared is None:
            return None
        found = CachedRow(**{**shared, "accuracies": tuple(shared["accuracies"])})
        # A run that was killed after it had measured a row finds its own; it is no row of another run.
        return attrs.evolve(found, run="") if found.run == self.run else found

    def keep(self, setup: Setup, subject: Subject, report: EvaluationReport) -> None:
        """Keeps a row that was measured now.

        Args:
            setup: as for `find`.
            subject: as for `find`.
            report: the measurement on the test split.
        """
        key = self._key(setup, subject) if self.crew.rank == 0 else None
        if key is None:
            return
        row = CachedRow(accuracies=report.accuracies, lr=report.lr, selected_by=report.selected_by, run=self.run)
        about = {"subject": report.subject, "data": setup.config.data.name, "network": report.net}
        write_row(self.experts, key, row, about)

    def _key(self, setup: Setup, subject: Subject) -> dict[str, Any] | None:
        """Everything that the row of a baseline depends on; None if that cannot be said."""
        config, settings = setup.config, setup.config.eval
        components = {kind: _component_key(kind, getattr(config, kind)) for kind in ("model", "augment", "executor")}
        if None in components.values():
            return None
        executor = components["executor"] or {}
        components["executor"] = {k: v for k, v in executor.items() if k not in config.executor.without_effect}
        if subject.name == "full_data":
            training: dict[str, Any] = attrs.asdict(settings.full_set())
        else:
            training = {
                **attrs.asdict(settings.small_set(settings.baseline_lrs[0])),
                "rates": sorted(settings.baseline_lrs),
                "select": [settings.select_networks, settings.select_epochs],
            }
            del training["lr"]
        return {
            "data": setup.data_sha256,
            "test": setup.splits.test.fingerprint(sha256_of),
            "space": {**setup.space.record(), "tensors": _tensors_sha256(setup.space.tensors())},
            **components,
            "precision": config.run.precision,
            "training": training,
            "networks": settings.networks,
            "seed": settings.seed,
            "rows": _tensors_sha256({"images": subject.data.images, "targets": subject.data.targets}),
            "surroundings": dict(self.surroundings),
        }


def known_rows(experts: Path, run: Path, session: ExecutorSession, crew: Crew | None = None) -> KnownRows:
    """The rows that a run can take, and the place where it leaves its own.

    Args:
        experts: the folder of expert stores.
        run: the run, or what else is evaluated.
        session: an executor's session before its first step.
        crew: the processes that work on the run; None for this one alone.
    """
    crew = crew or Crew()
    return KnownRows(experts=experts, run=str(run.resolve()), surroundings=surroundings(session, crew), crew=crew)


def _component_key(kind: str, component: Any) -> dict[str, Any] | None:
    """A component's name, options and code; None for a class that no plugin offers, whose code nobody can vouch for."""
    entry = next((e for e in catalog().entries(kind) if e.cls is type(component)), None)
    if entry is None:
        return None
    code = {} if entry.distribution == "ddfw" else {"plugin": entry.plugin, "source": source_sha256(entry.cls)}
    return {**as_table(component), **code}


def _tensors_sha256(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name}{tensor.dtype}{tuple(tensor.shape)}".encode())
        array: Any = tensor.detach().cpu().contiguous().numpy()
        digest.update(array)
    return digest.hexdigest()
