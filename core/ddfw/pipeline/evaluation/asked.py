"""What `ddfw eval` is asked for: the set, and the data, network and protocol that it is tested with.

Settings come from the user's flags, then from what --like names, a run's own configuration or a card; the last two say
no more than `ddfw.config.foreign` lets them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from attrs import evolve, frozen

from ddfw.artifacts import run_seals
from ddfw.artifacts.image_set import ImageSet
from ddfw.artifacts.run_dir import CONFIG, MANIFEST
from ddfw.config.fingerprints import sha256_of
from ddfw.config.foreign import RunFile, of_card, of_run, read_run_file
from ddfw.config.layers import gather
from ddfw.config.load import Configured, configure, resolve
from ddfw.config.run_config import RunConfig
from ddfw.contracts.dataset import ImageSpec
from ddfw.engine.sizes import count_parameters
from ddfw.errors import ConfigError, ConfigProblem, DataError, config_error, did_you_mean, option_errors_at
from ddfw.pipeline.adopt import require_shape
from ddfw.pipeline.evaluation.baselines import BASELINES, asked_baselines
from ddfw.pipeline.prepare import Setup, set_up
from ddfw.pipeline.sets import read_images

logger = logging.getLogger(__name__)

#: What can be evaluated besides a path: real images, selected as the baseline of that name is.
WORDS = tuple(name for name, b in BASELINES.items() if b.labels == "hard" and b.equal != "count")
#: Most parameters of a network that a card or a configuration from outside names.
MOST_PARAMETERS = 50_000_000


@frozen(kw_only=True)
class Asked:
    """What is evaluated, and how: resolved before any network is trained.

    Args:
        word: one of `WORDS`, "" for a set of images.
        found: the set of images, None for a word.
        run: the run directory that the set lies in, None for others.
        file: the run's configuration that was asked, None for others.
        said: paths of settings that the user gave by flags and --set.
        setup: data, network and protocol.
        own_budget: whether baselines get the configuration's budget, and not what the set stores.
        guessed: whether the protocol is a recipe's, since nothing named one.
    """

    word: str
    found: ImageSet | None
    run: Path | None
    file: RunFile | None
    said: set[str]
    setup: Setup
    own_budget: bool
    guessed: bool


def resolved(
    subject: str | Path,
    like: str | None,
    configure_with: tuple[Mapping[str, Any], Sequence[str]],
    data_root: Path | None,
    *,
    lr: float | None,
    trust: bool,
) -> Asked:
    """Reads the set, and the configuration that its networks are trained by.

    Args:
        subject: a path or one of `WORDS`.
        like: whose configuration, None for the set's own.
        configure_with: tables of flags, and texts of --set.
        data_root: where data sets look for their files.
        lr: the learning rate that the user named, None for the set's own.
        trust: whether all of a run's configuration is taken.

    Raises:
        ConfigError: options that do not fit, or nothing names the data.
        DataError: nothing that can be read, or other data than the run had.
    """
    path = Path(subject)
    word = str(subject) if isinstance(subject, str) and subject in WORDS and not path.exists() else ""
    if not word and isinstance(subject, str) and not path.exists() and "/" not in subject:
        hint = did_you_mean(subject, WORDS)
        raise DataError(
            f"{subject} is missing.{hint} Expected a run, an export, a set of images, or {', '.join(WORDS)}"
        )
    run = None if word else _run_directory(path)
    if run is not None:
        run_seals.require_figures(run)
    config_file = _config_of(like) if like is not None else run / CONFIG if run else None
    file = None if config_file is None else read_run_file(config_file, trust=trust)
    found = None if word else read_images(path, lr=lr)
    start, where = _start(like, file, found, path, configure_with)
    made = configure(start, *configure_with)
    said = _said(made)
    config = _as_asked(made)
    if where is not None:
        _require_small(config, found, data_root, where)
    # Networks have to see what they saw when the set was learned, so its space is used, not one fitted anew.
    setup = set_up(resolve(config), data_root, found.space if found is not None else None)
    if found is not None:
        require_shape(setup, found)
        _require_space(found, config, said)
    # The data have to be those of the run, unless the user named others.
    reference = None if names_table(said, "data") or file is None else file.path.parent
    if reference is not None and (reference / MANIFEST).is_file():
        _require_same_data(reference, "data_sha256", setup.data_sha256)
        _require_same_data(reference, "test_sha256", setup.splits.test.fingerprint(sha256_of))
    return Asked(
        word=word,
        found=found,
        run=run,
        file=file,
        said=said,
        setup=setup,
        own_budget=found is None or (run is not None and like is None and not names_table(said, "budget")),
        guessed=like is None and file is None,
    )


def _start(
    like: str | None,
    file: RunFile | None,
    found: ImageSet | None,
    path: Path,
    configure_with: tuple[Mapping[str, Any], Sequence[str]],
) -> tuple[str | Mapping[str, Any] | None, Path | None]:
    """What a configuration starts from, and the file from outside that named the network, None where none did.

    Args:
        like: a recipe or a file that the user named, or the directory of `file`.
        file: the configuration of a run, None if there is none.
        found: the set, None for real images.
        path: where the set lies.
        configure_with: tables of flags, and texts of --set.

    Raises:
        ConfigError: nothing names the data, or a component is unknown.
        DataError: a card or a configuration says what it may not.
    """
    if file is not None and file.own:
        return str(file.path), None
    if file is None and (like is not None or found is None):
        return like, None
    flags, assignments = configure_with
    said = {p for p, origin in gather(None, flags, assignments).origins.items() if origin in ("flag", "--set")}
    if file is not None:
        taken, where = of_run(file, said), file.path
    else:
        assert found is not None
        where = (path.parent if path.is_file() else path) / "card.json"
        if "data.name" not in said:
            raise config_error("data", _words_about_data(found))
        asked = {kind: None if f"{kind}.name" in said else found.card.component(kind) for kind in ("model", "augment")}
        precision = str(found.images.dtype).removeprefix("torch.")
        taken = of_card(asked, where) if found.card else {}
        taken |= {"run": {"precision": precision, "quick": found.card.quick}} if found.card else {}
    if not taken:
        return None, None
    data = taken.get("data", {})
    below = gather(None, [{"data": {"name": data["name"]}} if data else {}, flags], assignments).tables
    return {**below, **taken, "run": {**below["run"], **taken["run"]}}, where if "model" in taken else None


def _words_about_data(found: ImageSet) -> str:
    """That a set needs its data named, and what its card says of them."""
    name, _ = found.card.source
    hint = f"; its card says that it was learned from {str(name)[:60]!r}" if isinstance(name, str) and name else ""
    return (
        "nothing says on which data the set is to be tested: name them by --data NAME, or by --like with a run, a "
        f"recipe or a file{hint}"
    )


def _require_small(config: RunConfig, found: ImageSet | None, data_root: Path | None, where: Path) -> None:
    """Refuses a network from outside that is too large, before memory is taken for it.

    Raises:
        DataError: it has more than `MOST_PARAMETERS` parameters.
    """
    if found is None:
        with option_errors_at("data"):
            spec = config.data.splits(data_root).spec
    else:
        (channels, height, width), targets = found.images.shape[1:], found.targets
        classes = targets.shape[1] if targets.ndim == 2 else len(found.class_names or ()) or int(targets.max()) + 1
        spec = ImageSpec(channels=channels, height=height, width=width, num_classes=classes)
    with option_errors_at("model"), torch.device("meta"):
        count = count_parameters(config.model.build(spec))
    if count > MOST_PARAMETERS:
        raise DataError(
            f"{where}: its network {config.model.name} has {count:,} parameters, a file from outside may ask for "
            f"{MOST_PARAMETERS:,} at most; name a network by --model, or take one from --like"
        )


def say_what_is_asked(file: RunFile, config: RunConfig, say: Callable[[str], None]) -> None:
    """Names the work that a run's configuration asks for; of one from outside, as a warning."""
    work = (
        f"{config.data.name}, {config.model.name}, executor {config.executor.name}, "
        f"{config.eval.networks} networks × {config.eval.epochs} epochs"
    )
    if file.own:
        say(f"as {file.path} says: {work}")
        return
    logger.warning(
        "%s was not run by you here, so that only data, network, augmentation and protocol are taken from it, and no "
        "executor (--trust-config takes all): %s",
        file.path,
        work,
    )


def _run_directory(path: Path) -> Path | None:
    """The run that a path is the directory of, or the `synthetic` folder of; None where there is none."""
    for place in (path, path.parent):
        if (place / CONFIG).is_file() and (place == path or path.name == "synthetic"):
            return place
    return None


def _config_of(like: str) -> Path | None:
    """The config.toml of the run directory that --like names, or that a file of --like lies in; None for others."""
    path = Path(like)
    if (path / CONFIG).is_file():
        return path / CONFIG
    return path if path.name == CONFIG and path.is_file() and (path.parent / MANIFEST).exists() else None


def _said(made: Configured) -> set[str]:
    """What the user said by flags and --set."""
    return {path for path, origin in made.settings.origins.items() if origin in ("flag", "--set")}


def names_table(said: set[str], table: str) -> bool:
    """Whether a table, or something in it, was said."""
    return any(path == table or path.startswith(f"{table}.") for path in said)


def _require_space(found: ImageSet, config: RunConfig, said: set[str]) -> None:
    """Refuses a training space that would be passed over, and experts that would see images of another one.

    Raises:
        ConfigError: the set was learned in another space than asked for.
    """
    if found.space is None or found.space.kind == config.data.space:
        return
    experts = any(baseline.needs_experts for baseline in asked_baselines(config.eval.baselines))
    if experts or names_table(said, "data.space"):
        message = f"the set lives in the training space {found.space.kind!r}, which is used; leave data.space out"
        if experts:
            message = f"the set lives in {found.space.kind!r}, the experts that baselines need in another space"
        raise ConfigError((ConfigProblem(path="data.space", message=message),))


def _as_asked(made: Configured) -> RunConfig:
    """The configuration without baselines and other networks, unless the user asked for them now."""
    said, config = _said(made), made.config
    cross = {key: m for key, m in config.cross.items() if names_table(said, f"cross.{key}")}
    baselines = config.eval.baselines if "eval.baselines" in said else ()
    return evolve(config, cross=cross, eval=evolve(config.eval, baselines=baselines))


def _require_same_data(run: Path, key: str, found: str) -> None:
    """Refuses to compare figures of different data.

    Raises:
        DataError: the data set is not the one that the run's manifest names.
    """
    expected = run_seals.read_manifest(run).get(key)
    if expected is not None and expected != found:
        what = "test images or labels" if key == "test_sha256" else "training images or labels"
        raise DataError(f"the {what} are not those of {run} (sha256 {found[:12]}…, there {str(expected)[:12]}…)")
