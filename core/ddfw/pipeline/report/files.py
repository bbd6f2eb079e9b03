"""The files that a run leaves: its set with the picture, evaluations, manifest and summary."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from attrs import frozen
from torch.nn.functional import one_hot

from ddfw.artifacts import pictures, seal, snapshots, synthetic
from ddfw.artifacts.run_dir import MANIFEST, SUMMARY, RunDirectory
from ddfw.artifacts.run_seals import METRICS
from ddfw.pipeline.evaluation.baselines import select_real
from ddfw.pipeline.report.card import card_of
from ddfw.pipeline.report.manifest import manifest_of
from ddfw.pipeline.report.summary import eval_record

if TYPE_CHECKING:
    from torch import Tensor

    from ddfw.contracts.executor import LabelledImages
    from ddfw.contracts.observer import EvaluationReport
    from ddfw.contracts.records import Summary
    from ddfw.engine.distill import Distillation, Learned
    from ddfw.pipeline.evaluation.final import FinalReports
    from ddfw.pipeline.prepare import Plan
    from ddfw.pipeline.resume import Best


@frozen(kw_only=True)
class RunFiles:
    """Writes the files of one run. If several processes work on the run, only rank 0 writes.

    Args:
        plan: the run.
        directory: where the files go.
    """

    plan: Plan
    directory: RunDirectory

    def write_finished(
        self,
        distillation: Distillation[Any],
        best: Best,
        final: FinalReports,
        summary: Summary,
        facts: Mapping[str, Any],
    ) -> None:
        """Writes everything of a finished run; the summary last, since it says that the run is finished.

        Args:
            distillation: decodes what was learned.
            best: the step that was kept.
            final: what the evaluation found.
            summary: its figures.
            facts: further entries of the manifest.
        """
        assert best.learned is not None
        plan = self.plan
        reports = (*final.own, *final.across)
        outputs = self.write_set(distillation, best.learned, best.step, reports, summary.trajectories, "finished")
        outputs |= snapshots.snapshot_files(self.directory.path)
        evaluations = {f"eval/{report.subject}.json": eval_record(report) for report in final.own}
        evaluations |= {f"eval/{report.subject}-{report.net}.json": eval_record(report) for report in final.across}
        outputs |= {name: self.directory.write_json(name, record) for name, record in evaluations.items()}
        outputs[SUMMARY] = seal.json_sha256(summary.to_json())
        metrics = self.directory.path / METRICS
        self._write_manifest(
            status="finished",
            experts=str(plan.expert_set.store.folder),
            device=summary.device,
            outputs=outputs,
            selected_step=best.step,
            **({METRICS: seal.part_of(metrics)} if metrics.is_file() else {}),
            **facts,
        )
        self.directory.write_json(SUMMARY, summary.to_json())

    def write_set(
        self,
        distillation: Distillation[Any],
        learned: Learned,
        step: int,
        reports: Sequence[EvaluationReport],
        storage: Mapping[str, int],
        status: str,
    ) -> dict[str, str]:
        """Writes synthetic/ and its picture.

        Args:
            distillation: decodes what was learned.
            learned: parameters, labels and step size.
            step: the outer step at which they were learned.
            reports: evaluations for the card.
            storage: bytes of trajectories and number of experts, for the card.
            status: `finished` or `diverged`.

        Returns:
            The SHA-256 of each file, by its path below the run directory.
        """
        plan = self.plan
        images, targets = distillation.decoded(learned, step)
        record = card_of(plan, float(learned.step_size), step, reports, storage, status)
        hashes = synthetic.write_set(
            self.directory.synthetic, learned.params, learned.label_params, images, targets, plan.space, record
        )
        found = {f"synthetic/{name}": digest for name, digest in hashes.items()}
        found["images/synthetic.png"] = pictures.write_grid(
            self.directory.path / "images" / "synthetic.png",
            plan.space.decode(images),
            targets,
            plan.layout.images_per_class,
            plan.splits.class_names,
            f"{plan.config.title()} · step {step}",
        )
        return found

    def write_start(self, train: LabelledImages) -> None:
        """Writes real images to compare with into `steps`, and removes snapshots of an earlier attempt.

        Args:
            train: the training split in training space.
        """
        plan, spec = self.plan, self.plan.layout.spec
        snapshots.clear_snapshots(self.directory.path)
        kept = snapshots.shown_per_class(snapshots.MAX_SHOWN, spec.num_classes, spec.floats_per_image)
        rows = select_real(plan.real(train), "random", kept, plan.config.run.seed)
        labels = one_hot(train.targets[rows], spec.num_classes)
        self._write_snapshot(train.images[rows], labels, kept, None)

    def write_step(self, distillation: Distillation[Any], learned: Learned, step: int) -> None:
        """Writes what the set looks like after an outer step into `steps`.

        Args:
            distillation: decodes what was learned.
            learned: parameters, labels and step size.
            step: number of outer steps that are done.
        """
        images, targets = distillation.decoded(learned, step)
        self._write_snapshot(images, targets, self.plan.layout.images_per_class, step)

    def _write_snapshot(self, images: Tensor, targets: Tensor, per_class: int, step: int | None) -> None:
        spec = self.plan.layout.spec
        kept = snapshots.shown_per_class(per_class, spec.num_classes, spec.floats_per_image)
        rows = torch.arange(len(images), device=images.device).view(-1, per_class)[:, :kept].flatten()
        snapshots.write_snapshot(
            self.directory.path,
            snapshots.Snapshot(
                pixels=self.plan.space.decode(images[rows]),
                targets=targets[rows],
                per_class=kept,
                of_per_class=per_class,
                step=step,
            ),
        )

    def write_ended(self, status: str, reason: str, seconds: Mapping[str, float], outputs: Mapping[str, str]) -> None:
        """Writes the manifest of a run that has no summary.

        Args:
            status: `diverged` or `failed`.
            reason: what went wrong.
            seconds: of each stage so far.
            outputs: SHA-256 of what was written nevertheless.
        """
        self._write_manifest(
            status=status, reason=reason, **({"outputs": outputs} if status == "diverged" else {}), seconds=seconds
        )

    def _write_manifest(self, **facts: Any) -> None:
        self.directory.write_sealed(MANIFEST, manifest_of(self.plan, **facts))
