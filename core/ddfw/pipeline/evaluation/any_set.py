"""`ddfw eval`: trains fresh networks on any set of labelled images and measures their accuracy.

A run's learned set, what other programs learned, a folder of pictures, or real images that are selected here: all go
through the same protocol, and the test split is read once.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attrs import evolve

from ddfw.artifacts.image_set import ImageSet
from ddfw.config.run_config import RunConfig
from ddfw.contracts.executor import LabelledImages
from ddfw.contracts.records import QUICK_NOTE, ResolvedRun
from ddfw.engine.experts import ExpertTeachers
from ddfw.errors import DataError
from ddfw.pipeline.adopt import given, matching_notes
from ddfw.pipeline.evaluation.asked import Asked, resolved, say_what_is_asked
from ddfw.pipeline.evaluation.baselines import BASELINES, Size, Subject, asked_baselines, full_data, real_baselines
from ddfw.pipeline.evaluation.evaluator import Evaluator
from ddfw.pipeline.evaluation.final import final
from ddfw.pipeline.evaluation.known_rows import known_rows
from ddfw.pipeline.evaluation.scores import score
from ddfw.pipeline.experts import observers_for_people
from ddfw.pipeline.observers import Announcer
from ddfw.pipeline.prepare import Setup, select_experts
from ddfw.pipeline.report.evaluation import Evaluation
from ddfw.process.isolation import isolated

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)


@isolated
def evaluate(
    subject: str | Path,
    *,
    like: str | None = None,
    flags: Mapping[str, Any] | None = None,
    assignments: Sequence[str] = (),
    lr: float | None = None,
    scores: bool = False,
    data_root: str | Path | None = None,
    experts_dir: str | Path = "experts",
    quiet: bool = False,
    trust: bool = False,
    say: Callable[[str], None] = logger.info,
) -> Evaluation:
    """Trains fresh networks on a set and judges them on the test split.

    Args:
        subject: a run directory, an export, `images*.pt` or a folder with it, a folder of class folders, or one of
            `WORDS` for real images.
        like: a recipe, configuration file or run directory whose data, network and protocol are taken; for a run, its
            own. A set that is no run needs one, or a flag that names its data.
        flags: tables that flags set.
        assignments: texts of --set.
        lr: learning rate of the networks; None for the step size that comes with the set, or the best of
            `eval.baseline_lrs` on the validation split.
        scores: DD-Ranking's too, which takes the full data, hard labels and networks without augmentation.
        data_root: where data sets look for their files.
        experts_dir: where the experts are that select and label real images.
        quiet: no progress.
        trust: take all of a run's configuration, also if it was not run by this user here. Without it, such a
            configuration gives data without paths, network, augmentation and a protocol of bounded cost.
        say: called once with what a run's configuration asks for, before any network is trained.

    Raises:
        ConfigError: no such recipe, options that do not fit, or nothing names the data.
        DataError: nothing that can be read there, damaged files, or other data than the run had.
    """
    data_root, experts_dir = None if data_root is None else Path(data_root), Path(experts_dir)
    asked = resolved(subject, like, (flags or {}, assignments), data_root, lr=lr, trust=trust)
    setup, config = asked.setup, asked.setup.config
    if asked.file is not None:
        say_what_is_asked(asked.file, config, say)
    announcer, shown = Announcer(), observers_for_people(config, quiet)
    with announcer.opened(shown, Path(subject).parent), config.executor.open(setup.context()) as session:
        evaluator = Evaluator(setup=setup, session=session, announce=announcer, net=config.model.name)
        train, validation = (setup.encode(s, session.device) for s in (setup.splits.train, setup.splits.validation))
        experts = _experts(asked, experts_dir, evaluator)
        trained_on = _trained_on(asked, evaluator, experts, train, validation, lr)
        known = known_rows(experts_dir, Path(subject), session)
        found = final(evaluator, trained_on, experts, train, validation, own_budget=asked.own_budget, known=known)
        ranking = score(evaluator, trained_on, train, validation, own_budget=asked.own_budget) if scores else {}
    return Evaluation(
        reports=found.own,
        cross=found.cross,
        scores=ranking,
        directory=asked.run,
        lr=lr,
        protocol=_protocol(setup.run),
        request=(*config.eval.baselines, *config.cross, *(("scores",) if scores else ())),
        own_protocol=not {p for p in asked.said if not p.startswith("cross.")} - _HARMLESS,
        diverged=found.diverged,
    )


def _trained_on(
    asked: Asked,
    evaluator: Evaluator,
    experts: ExpertTeachers | None,
    train: LabelledImages,
    validation: LabelledImages,
    lr: float | None,
) -> Subject:
    """What networks are trained on, with its learning rate."""
    setup = asked.setup
    if asked.found is None:
        subject = _real(evaluator, asked.word, experts, train, validation)
    else:
        subject = _of_set(setup, asked.found, lr, evaluator.session.device)
        if asked.guessed:
            recipe = setup.config.run.recipe
            words = f"judged on {setup.config.data.name} as the recipe {recipe} says, since --like named nothing"
            subject = evolve(subject, notes=(*subject.notes, words))
        if lr is None and asked.found.step_size is None:
            subject = evaluator.with_best_lr(subject, validation)
    subject = evolve(subject, notes=(*subject.notes, *setup.splits.notes))
    return subject if lr is None else evolve(subject, lr=lr, selected_by="nothing")


#: What may be said without changing how a network is trained, or is in the file's name.
_HARMLESS = {"eval.networks", "eval.seed", "eval.baselines", "executor.name", "executor.threads", "executor.workers"}


def _protocol(run: ResolvedRun[RunConfig]) -> dict[str, Any]:
    """How networks were trained."""
    return {"network": run.tables["model"], "augment": run.tables["augment"], "eval": run.tables["eval"]}


def _experts(asked: Asked, experts_dir: Path, evaluator: Evaluator) -> ExpertTeachers | None:
    """The experts, where a baseline or the word needs them: all to label images, the first alone to select them.

    Raises:
        DataError: they are not in their store.
    """
    setup = asked.setup
    names = {*setup.config.eval.baselines, *((asked.word,) if asked.word else ())}
    needing = [baseline for baseline in asked_baselines([*names]) if baseline.needs_experts]
    if not needing:
        return None
    expert_set = select_experts(setup, experts_dir)
    labelling = any(baseline.labels == "teacher" for baseline in needing)
    seeds = expert_set.seeds if labelling else expert_set.seeds[:1]
    there = expert_set.store.index()
    if missing := [seed for seed in seeds if seed not in there]:
        wanted = f"{len(missing)} of the {len(seeds)} experts that label" if labelling else "the expert that selects"
        free = "" if labelling else "; kmeans_pixels and herding_pixels need none"
        raise DataError(
            f"{expert_set.store.folder} lacks {wanted} real images for {', '.join(b.name for b in needing)}; train "
            f"experts with `ddfw experts train`, or name their folder by --experts-dir{free}"
        )
    source = expert_set.store.source(seeds, setup.network, evaluator.session.device, setup.dtype)
    return ExpertTeachers(setup.network, source)


def _real(
    evaluator: Evaluator,
    name: str,
    experts: ExpertTeachers | None,
    train: LabelledImages,
    validation: LabelledImages,
) -> Subject:
    """Real images that are selected here, with the best learning rate, or all of them."""
    if name == "full_data":
        return full_data(evaluator.setup, train)
    size = Size(floats=evaluator.setup.config.budget.floats(evaluator.setup.splits.spec), per_class=1)
    (subject,) = real_baselines(evaluator.setup, [BASELINES[name]], train, experts, size)
    return evaluator.with_best_lr(subject, validation)


def _of_set(setup: Setup, found: ImageSet, lr: float | None, device: torch.device) -> Subject:
    """A set from anywhere as a subject.

    Raises:
        DataError: images or classes that are not those of the data set.
    """
    data = given(setup, found)
    floats = found.floats or {
        "strict": data.images.numel() + (data.targets.numel() if found.targets.ndim == 2 else 0),
        "pixels": data.images.numel(),
    }
    card = found.card
    notes = list(found.notes)
    if card.over_budget:
        notes.append("over the strict budget")
    if card.imported_experts:
        notes.append("imported experts may have seen the validation images that selected the step")
    if not card:
        notes.append("how this set was selected is not known")
    if found.space is None and not found.pixels:
        notes.append(f"it names no training space; it was taken to live in data.space = {setup.config.data.space!r}")
    notes.extend(matching_notes(setup, found))
    there = data.targets.argmax(dim=1).unique()
    if len(there) < setup.splits.spec.num_classes:
        notes.append(f"it has images of {len(there)} of the {setup.splits.spec.num_classes} classes")
    name, sha256 = card.source
    if name == setup.config.data.name and sha256 != setup.data_sha256:
        notes.append("it was learned on another part or split of the data, and may have seen these test images")
    if card.quick:
        notes.append(QUICK_NOTE)
    return Subject(
        name="distilled" if card else "given",
        data=LabelledImages(images=data.images.to(device), targets=data.targets.to(device)),
        lr=found.step_size or lr or setup.config.eval.baseline_lrs[0],
        floats=floats,
        step=found.step,
        selected_by=card.selected_by,
        notes=tuple(notes),
    )
