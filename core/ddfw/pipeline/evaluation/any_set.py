"""`ddfw eval`: any set of labelled images, judged by fresh networks.

A run's learned set, what other programs learned, a folder of pictures, or real images that are selected here: all go
through the same protocol, and the test split is read once.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attrs import evolve, field, frozen

from ddfw.artifacts import atomic
from ddfw.artifacts.image_set import ImageSet
from ddfw.artifacts.run_dir import CONFIG, MANIFEST
from ddfw.config.fingerprints import sha256_of
from ddfw.config.load import Configured, config_document, configure
from ddfw.config.run_config import COMPONENT_TABLES, RunConfig
from ddfw.contracts.executor import LabelledImages
from ddfw.engine.experts import ExpertTeachers
from ddfw.errors import ConfigError, ConfigProblem, DataError
from ddfw.pipeline.adopt import given, require_shape
from ddfw.pipeline.evaluation.baselines import REAL, Size, Subject, full_data, real_baseline
from ddfw.pipeline.evaluation.evaluator import Evaluator, final
from ddfw.pipeline.evaluation.scores import score
from ddfw.pipeline.experts import progress_observers
from ddfw.pipeline.observers import Announcer
from ddfw.pipeline.prepare import Setup, select_experts, set_up
from ddfw.pipeline.report.summary import QUICK_NOTE, eval_record
from ddfw.pipeline.sets import read_images

if TYPE_CHECKING:
    import torch

    from ddfw.contracts.labels import Teachers
    from ddfw.contracts.observer import EvaluationReport

#: What can be judged besides a path: real images, selected as the baseline of that name is, and all of them.
WORDS = (*(name for name, (_, labels, equal) in REAL.items() if labels == "hard" and equal == "floats"), "full_data")


@frozen(kw_only=True)
class Evaluation:
    """What `ddfw eval` found.

    Args:
        reports: the subject's first, then those of the baselines.
        cross: the same for other architectures, by key.
        scores: DD-Ranking's, {} where they were not asked for.
        directory: of the run that was judged, None where it was none.
        lr: the learning rate that was asked for, None for the set's own.
        protocol: network, augmentation and [eval] of these figures.
        own_protocol: whether they are those of the run that was judged.
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
        """The subject's figures as in a run's eval/*.json, with the others beside them where there are any."""
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
    word = isinstance(subject, str) and subject in WORDS and not Path(subject).exists()
    path = Path(subject)
    run = _run_directory(path) if not word else None
    start = like if like is not None else str(run / CONFIG) if run else None
    if start is not None and (Path(start) / CONFIG).is_file():
        start = str(Path(start) / CONFIG)
    if run is not None:
        _require_readable(run / CONFIG)
    if not word and isinstance(subject, str) and not path.exists() and "/" not in subject:
        close = difflib.get_close_matches(subject, WORDS, n=1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        raise DataError(
            f"{subject} is missing; {hint}expected a run, an export, a set of images, or {', '.join(WORDS)}"
        )
    found = None if word else read_images(path)
    base = None if found is None or start is not None else _settings_of(found)
    made = configure(start if base is None else base, flags or {}, assignments)
    config = _as_asked(made)
    # Whose data these have to be, unless the user named others.
    reference = None if _names(_said(made), "data") else _run_of(start)
    # Networks have to see what they saw when the set was learned, so its space is used, not one fitted anew.
    setup = set_up(config, data_root, found.space if found is not None else None)
    if found is not None:
        require_shape(setup, found)
        _require_space(found, config, _said(made))
    if reference is not None and (reference / MANIFEST).is_file():
        _require_same_data(reference, "data_sha256", setup.data_sha256)
        _require_same_data(reference, "test_sha256", setup.splits.test.fingerprint(sha256_of))
    announcer = Announcer()
    shown = [] if quiet else progress_observers(config, quiet)
    with announcer.opened(shown, path.parent), config.executor.open(setup.context()) as session:
        judge = Evaluator(setup=setup, session=session, announce=announcer, net=config.model.name)
        train, validation = (setup.encode(s, session.device) for s in (setup.splits.train, setup.splits.validation))
        teachers = _teachers(setup, experts_dir, judge)
        if found is None:
            judged = (
                full_data(setup, train) if subject == "full_data" else _real(judge, str(subject), train, validation)
            )
        else:
            judged = _of_set(setup, found, lr, session.device)
            if start is None and base is None:
                words = (
                    f"judged on {config.data.name} as the recipe {config.run.recipe} says, since --like named nothing"
                )
                judged = evolve(judged, notes=(*judged.notes, words))
            if lr is None and found.step_size is None:
                judged = judge.with_best_lr(judged, validation)
        if lr is not None:
            judged = evolve(judged, lr=lr, selected_by="nothing")
        own = found is None or (run is not None and like is None and not _names(_said(made), "budget"))
        verdict = final(judge, judged, teachers, train, validation, own_budget=own)
        ranking = score(judge, judged, train, validation, own_budget=own) if scores else {}
    return Evaluation(
        reports=verdict.own,
        cross=verdict.cross,
        scores=ranking,
        directory=run,
        lr=lr,
        protocol=_protocol(config),
        request=(*config.eval.baselines, *config.cross, *(("scores",) if scores else ())),
        own_protocol=not {p for p in _said(made) if not p.startswith("cross.")} - _HARMLESS,
        diverged=verdict.diverged,
    )


def reevaluate(
    run: Path, networks: int | None, seed: int | None, data_root: Path | None
) -> tuple[Path, dict[str, Any]]:
    """Judges a run's stored set again by its own protocol, and writes RUN/eval/again-….json.

    Args:
        run: the run directory.
        networks: how many; None for the run's own number.
        seed: of their initialisations; None for the run's own.
        data_root: where the data set looks for its files.

    Returns:
        The file that was written, and its content.

    Raises:
        DataError: no run there, or damaged files.
    """
    given = {key: value for key, value in (("networks", networks), ("seed", seed)) if value is not None}
    if _run_directory(run) is None:
        raise DataError(f"{run} is not a run directory: it has no config.toml")
    found = evaluate(run, flags={"eval": given} if given else {}, data_root=data_root)
    return write_again(run, found)


def write_again(run: Path, found: Evaluation) -> tuple[Path, dict[str, Any]]:
    """Writes what was found about a run's set beside the run's own evaluation."""
    report, record = found.reports[0], found.record()
    rate = "" if found.lr is None else f"-lr{found.lr:g}"
    if not found.own_protocol or found.request:  # other figures, or more of them, stand beside the first ones
        asked = json.dumps([found.protocol, found.request], sort_keys=True)
        rate += f"-{hashlib.sha256(asked.encode()).hexdigest()[:6]}"
    path = run / "eval" / f"again-{report.net}-seed{report.eval_seed}-n{report.n}{rate}.json"
    path.parent.mkdir(exist_ok=True)
    atomic.write_json(path, record)
    return path, record


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


def _protocol(config: RunConfig) -> dict[str, Any]:
    """How networks were trained."""
    document = config_document(config)
    return {"network": document["model"], "augment": document["augment"], "eval": document["eval"]}


def _names(said: set[str], table: str) -> bool:
    """Whether a table, or something in it, was said."""
    return any(path == table or path.startswith(f"{table}.") for path in said)


def _settings_of(found: ImageSet) -> Mapping[str, Any] | None:
    """The settings that an export's card holds: its data, network and protocol; None where there is no card.

    Raises:
        DataError: a card that garbles them.
    """
    card = found.card
    try:
        parts = {table: dict(card["components"][table]) for table in COMPONENT_TABLES}
        protocol = {k: v for k, v in card["protocol"].items() if k != "network" and v is not None}
        values = len(found.class_names or ()) * found.images[0].numel()
        budget = {"ipc": int(card["floats"]["budget"]) // values, "accounting": card["floats"]["accounting"]}
        run = {"quick": bool(card.get("quick")), "precision": str(found.images.dtype).removeprefix("torch.")}
    except (KeyError, TypeError, ValueError, AttributeError, ZeroDivisionError):
        return None
    return {**parts, "eval": protocol, "budget": budget, "run": {"recipe": "card", **run}}


def _require_space(found: ImageSet, config: RunConfig, said: set[str]) -> None:
    """Refuses a training space that would be passed over, and experts that would label images of another one.

    Raises:
        ConfigError: the set was learned in another space than asked for.
    """
    if found.space is None or found.space.kind == config.data.space:
        return
    teachers = any(REAL[name][1] == "teacher" for name in config.eval.baselines if name in REAL)
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


def _teachers(setup: Setup, experts_dir: Path, judge: Evaluator) -> Teachers | None:
    """The experts as labellers, where a baseline asks for them; they have to be there.

    Raises:
        DataError: they are not.
    """
    if not any(REAL[name][1] == "teacher" for name in setup.config.eval.baselines if name in REAL):
        return None
    expert_set = select_experts(setup, experts_dir)
    there = expert_set.store.index()
    if missing := [seed for seed in expert_set.seeds if seed not in there]:
        raise DataError(
            f"{expert_set.store.folder} lacks {len(missing)} of the {len(expert_set.seeds)} experts that label the "
            "baseline; train them with `ddfw experts train`, or name their folder by --experts-dir"
        )
    source = expert_set.store.source(expert_set.seeds, setup.network, judge.session.device, setup.dtype)
    return ExpertTeachers(setup.network, source)


def _real(judge: Evaluator, name: str, train: LabelledImages, validation: LabelledImages) -> Subject:
    """Real images that are selected here, with the best learning rate, or all of them."""
    if name == "full_data":
        return full_data(judge.setup, train)
    size = Size(floats=judge.setup.config.budget.floats(judge.setup.splits.spec), per_class=1)
    return judge.with_best_lr(real_baseline(judge.setup, name, train, None, size), validation)


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
    if card.get("floats", {}).get("over_budget"):
        notes.append("over the strict budget")
    if card.get("experts", {}).get("imported"):
        notes.append("imported experts may have seen the validation images that selected the step")
    if not card:
        notes.append("how this set was selected is not known")
    if found.space is None and not found.pixels:
        notes.append(f"it names no training space; it was taken to live in data.space = {setup.config.data.space!r}")
    if found.class_names and set(found.class_names) != set(setup.splits.class_names):
        notes.append("its class folders have other names; they were matched in sorted order")
    there = data.targets.argmax(dim=1).unique()
    if len(there) < setup.splits.spec.num_classes:
        notes.append(f"it has images of {len(there)} of the {setup.splits.spec.num_classes} classes")
    source = card.get("source_data", {})
    if source.get("name") == setup.config.data.name and source.get("sha256") != setup.data_sha256:
        notes.append("it was learned on another part or split of the data, and may have seen these test images")
    if card.get("quick"):
        notes.append(QUICK_NOTE)
    return Subject(
        name="distilled" if card else "given",
        data=LabelledImages(images=data.images.to(device), targets=data.targets.to(device)),
        lr=found.step_size or lr or setup.config.eval.baseline_lrs[0],
        floats=floats,
        step=found.step,
        selected_by="validation" if card.get("selected", {}).get("by") == "validation" else "nothing",
        notes=tuple(notes),
    )


def _require_same_data(run: Path, key: str, found: str) -> None:
    """Refuses to compare figures of different data.

    Raises:
        DataError: the data set is not the one that the run's manifest names.
    """
    expected = atomic.read_json(run / MANIFEST).get(key)
    if expected is not None and expected != found:
        what = "test images or labels" if key == "test_sha256" else "training images or labels"
        raise DataError(f"the {what} are not those of {run} (sha256 {found[:12]}…, there {str(expected)[:12]}…)")
