"""`ddfw eval`: trains fresh networks on any set of labelled images and measures their accuracy.

A run's learned set, what other programs learned, a folder of pictures, or real images that are selected here: all go
through the same protocol, and the test split is read once.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attrs import evolve, frozen

from ddfw.artifacts import run_seals
from ddfw.artifacts.image_set import ImageSet
from ddfw.artifacts.run_dir import CONFIG, MANIFEST
from ddfw.config.fingerprints import sha256_of
from ddfw.config.load import Configured, configure, resolve
from ddfw.config.run_config import COMPONENT_TABLES, RunConfig
from ddfw.contracts.executor import LabelledImages
from ddfw.contracts.records import QUICK_NOTE, ResolvedRun
from ddfw.engine.experts import ExpertTeachers
from ddfw.errors import ConfigError, ConfigProblem, DataError, did_you_mean
from ddfw.pipeline.adopt import given, matching_notes, require_shape
from ddfw.pipeline.evaluation.baselines import BASELINES, Size, Subject, asked_baselines, full_data, real_baseline
from ddfw.pipeline.evaluation.evaluator import Evaluator, final
from ddfw.pipeline.evaluation.known_rows import known_rows
from ddfw.pipeline.evaluation.scores import score
from ddfw.pipeline.experts import observers_for_people
from ddfw.pipeline.observers import Announcer
from ddfw.pipeline.prepare import Setup, select_experts, set_up
from ddfw.pipeline.report.evaluation import Evaluation
from ddfw.pipeline.sets import read_images
from ddfw.process.isolation import isolated

if TYPE_CHECKING:
    import torch

    from ddfw.contracts.labels import Teachers

#: What can be evaluated besides a path: real images, selected as the baseline of that name is.
WORDS = tuple(name for name, b in BASELINES.items() if b.labels == "hard" and b.equal != "count")


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
) -> Evaluation:
    """Trains fresh networks on a set and judges them on the test split.

    Args:
        subject: a run directory, an export, `images*.pt` or a folder with it, a folder of class folders, or one of
            `WORDS` for real images.
        like: a recipe, configuration file or run directory whose data, network and protocol are taken; for a run, its
            own.
        flags: tables that flags set.
        assignments: texts of --set.
        lr: learning rate of the networks; None for the step size that comes with the set, or the best of
            `eval.baseline_lrs` on the validation split.
        scores: DD-Ranking's too, which takes the full data, hard labels and networks without augmentation.
        data_root: where data sets look for their files.
        experts_dir: where the experts are that label baselines.
        quiet: no progress.

    Raises:
        ConfigError: no such recipe, or options that do not fit.
        DataError: nothing that can be read there, damaged files, or other data than the run had.
    """
    data_root, experts_dir = None if data_root is None else Path(data_root), Path(experts_dir)
    asked = _resolved(subject, like, configure_with=(flags or {}, assignments), data_root=data_root, lr=lr)
    setup, config = asked.setup, asked.setup.config
    announcer, shown = Announcer(), observers_for_people(config, quiet)
    with announcer.opened(shown, Path(subject).parent), config.executor.open(setup.context()) as session:
        evaluator = Evaluator(setup=setup, session=session, announce=announcer, net=config.model.name)
        train, validation = (setup.encode(s, session.device) for s in (setup.splits.train, setup.splits.validation))
        teachers = _teachers(setup, experts_dir, evaluator)
        trained_on = _trained_on(asked, evaluator, train, validation, lr)
        known = known_rows(experts_dir, Path(subject), session)
        found = final(evaluator, trained_on, teachers, train, validation, own_budget=asked.own_budget, known=known)
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


@frozen(kw_only=True)
class _Asked:
    """What is evaluated, and how: resolved before any network is trained.

    Args:
        word: one of `WORDS`, "" for a set of images.
        found: the set of images, None for a word.
        run: the run directory that the set lies in, None for others.
        said: paths of settings that the user gave by flags and --set.
        setup: data, network and protocol.
        own_budget: whether baselines get the configuration's budget, and not what the set stores.
        guessed: whether the protocol is a recipe's, since nothing named one.
    """

    word: str
    found: ImageSet | None
    run: Path | None
    said: set[str]
    setup: Setup
    own_budget: bool
    guessed: bool


def _resolved(
    subject: str | Path,
    like: str | None,
    configure_with: tuple[Mapping[str, Any], Sequence[str]],
    data_root: Path | None,
    lr: float | None,
) -> _Asked:
    """Reads the set, and the configuration that its networks are trained by.

    Args:
        subject: a path or one of `WORDS`.
        like: whose configuration, None for the set's own.
        configure_with: tables of flags, and texts of --set.
        data_root: where data sets look for their files.
        lr: the learning rate that the user named, None for the set's own.

    Raises:
        ConfigError: options that do not fit.
        DataError: nothing that can be read, or other data than the run had.
    """
    path = Path(subject)
    word = str(subject) if isinstance(subject, str) and subject in WORDS and not path.exists() else ""
    run = None if word else _run_directory(path)
    start = like if like is not None else str(run / CONFIG) if run else None
    if start is not None and (Path(start) / CONFIG).is_file():
        start = str(Path(start) / CONFIG)
    if run is not None:
        run_seals.require_figures(run)
        _require_readable(run / CONFIG)
    if not word and isinstance(subject, str) and not path.exists() and "/" not in subject:
        hint = did_you_mean(subject, WORDS)
        raise DataError(
            f"{subject} is missing.{hint} Expected a run, an export, a set of images, or {', '.join(WORDS)}"
        )
    found = None if word else read_images(path, lr=lr)
    base = None if found is None or start is not None else _settings_of(found)
    made = configure(start if base is None else base, *configure_with)
    said = _said(made)
    config = _as_asked(made)
    # Networks have to see what they saw when the set was learned, so its space is used, not one fitted anew.
    setup = set_up(resolve(config), data_root, found.space if found is not None else None)
    if found is not None:
        require_shape(setup, found)
        _require_space(found, config, said)
    # The data have to be those of the run, unless the user named others.
    reference = None if _names(said, "data") else _run_of(start)
    if reference is not None and (reference / MANIFEST).is_file():
        _require_same_data(reference, "data_sha256", setup.data_sha256)
        _require_same_data(reference, "test_sha256", setup.splits.test.fingerprint(sha256_of))
    return _Asked(
        word=word,
        found=found,
        run=run,
        said=said,
        setup=setup,
        own_budget=found is None or (run is not None and like is None and not _names(said, "budget")),
        guessed=start is None and base is None,
    )


def _trained_on(
    asked: _Asked, evaluator: Evaluator, train: LabelledImages, validation: LabelledImages, lr: float | None
) -> Subject:
    """What networks are trained on, with its learning rate."""
    setup = asked.setup
    if asked.found is None:
        subject = _real(evaluator, asked.word, train, validation)
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


def _run_directory(path: Path) -> Path | None:
    """The run that a path is the directory of, or the `synthetic` folder of; None where there is none."""
    for place in (path, path.parent):
        if (place / CONFIG).is_file() and (place == path or path.name == "synthetic"):
            return place
    return None


def _require_readable(config: Path) -> None:
    """Refuses a run's configuration that is damaged: it is ours, so that this is no slip of the user's.

    Raises:
        DataError: not TOML.
    """
    try:
        tomllib.loads(config.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{config} is not readable TOML: {error}") from error


def _said(made: Configured) -> set[str]:
    """What the user said by flags and --set."""
    return {path for path, origin in made.settings.origins.items() if origin in ("flag", "--set")}


#: What may be said without changing how a network is trained, or is in the file's name.
_HARMLESS = {"eval.networks", "eval.seed", "eval.baselines", "executor.name", "executor.threads"}


def _protocol(run: ResolvedRun[RunConfig]) -> dict[str, Any]:
    """How networks were trained."""
    return {"network": run.tables["model"], "augment": run.tables["augment"], "eval": run.tables["eval"]}


def _names(said: set[str], table: str) -> bool:
    """Whether a table, or something in it, was said."""
    return any(path == table or path.startswith(f"{table}.") for path in said)


def _settings_of(found: ImageSet) -> Mapping[str, Any] | None:
    """The data, network and protocol that an export's card holds; None where there is no card, or it garbles them."""
    precision = str(found.images.dtype).removeprefix("torch.")
    try:
        tables = found.card.settings(COMPONENT_TABLES, len(found.class_names or ()) * found.images[0].numel())
    except (KeyError, TypeError, ValueError, AttributeError, ZeroDivisionError):
        return None
    return {**tables, "run": {"recipe": "card", "quick": found.card.quick, "precision": precision}}


def _require_space(found: ImageSet, config: RunConfig, said: set[str]) -> None:
    """Refuses a training space that would be passed over, and experts that would label images of another one.

    Raises:
        ConfigError: the set was learned in another space than asked for.
    """
    if found.space is None or found.space.kind == config.data.space:
        return
    teachers = any(baseline.labels == "teacher" for baseline in asked_baselines(config.eval.baselines))
    if teachers or _names(said, "data.space"):
        message = f"the set lives in the training space {found.space.kind!r}, which is used; leave data.space out"
        if teachers:
            message = f"the set lives in {found.space.kind!r}, the experts that would label baselines in another space"
        raise ConfigError((ConfigProblem(path="data.space", message=message),))


def _run_of(start: str | None) -> Path | None:
    """The run directory that a configuration file lies in, if it is a run's."""
    return Path(start).parent if start is not None and Path(start).name == CONFIG else None


def _as_asked(made: Configured) -> RunConfig:
    """The configuration without baselines and other networks, unless the user asked for them now."""
    said, config = _said(made), made.config
    cross = {key: m for key, m in config.cross.items() if _names(said, f"cross.{key}")}
    baselines = config.eval.baselines if "eval.baselines" in said else ()
    return evolve(config, cross=cross, eval=evolve(config.eval, baselines=baselines))


def _teachers(setup: Setup, experts_dir: Path, evaluator: Evaluator) -> Teachers | None:
    """The experts as labellers, where a baseline asks for them; they have to be there.

    Raises:
        DataError: they are not.
    """
    if not any(baseline.labels == "teacher" for baseline in asked_baselines(setup.config.eval.baselines)):
        return None
    expert_set = select_experts(setup, experts_dir)
    there = expert_set.store.index()
    if missing := [seed for seed in expert_set.seeds if seed not in there]:
        raise DataError(
            f"{expert_set.store.folder} lacks {len(missing)} of the {len(expert_set.seeds)} experts that label the "
            "baseline; train them with `ddfw experts train`, or name their folder by --experts-dir"
        )
    source = expert_set.store.source(expert_set.seeds, setup.network, evaluator.session.device, setup.dtype)
    return ExpertTeachers(setup.network, source)


def _real(evaluator: Evaluator, name: str, train: LabelledImages, validation: LabelledImages) -> Subject:
    """Real images that are selected here, with the best learning rate, or all of them."""
    if name == "full_data":
        return full_data(evaluator.setup, train)
    size = Size(floats=evaluator.setup.config.budget.floats(evaluator.setup.splits.spec), per_class=1)
    return evaluator.with_best_lr(real_baseline(evaluator.setup, BASELINES[name], train, None, size), validation)


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


def _require_same_data(run: Path, key: str, found: str) -> None:
    """Refuses to compare figures of different data.

    Raises:
        DataError: the data set is not the one that the run's manifest names.
    """
    expected = run_seals.read_manifest(run).get(key)
    if expected is not None and expected != found:
        what = "test images or labels" if key == "test_sha256" else "training images or labels"
        raise DataError(f"the {what} are not those of {run} (sha256 {found[:12]}…, there {str(expected)[:12]}…)")
