"""Learned sets, looked up: `ddfw.load`, `ddfw.export` and `ddfw.read_images`, with the formats that plugins offer."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from attrs import evolve
from torch.nn.functional import one_hot

from ddfw.artifacts.exports import SetReader, read_with_card, write_export
from ddfw.artifacts.image_set import ImageSet, checked_image_set
from ddfw.artifacts.run_dir import CONFIG
from ddfw.artifacts.synthetic import SyntheticSet, read_card, read_synthetic
from ddfw.config.catalog import from_table
from ddfw.config.extensions import formats, imported
from ddfw.contracts.augmentation import AbstractAugmentation
from ddfw.contracts.dataset import AbstractDataset
from ddfw.contracts.format import Format
from ddfw.contracts.model import AbstractModel
from ddfw.contracts.records import Card
from ddfw.errors import ConfigError, DataError, OptionError, PluginError, RegistryError, did_you_mean


def load(run: str | Path) -> SyntheticSet:
    """Loads what a run learned.

    Args:
        run: the run directory, its `synthetic` folder, or what `ddfw export` wrote.

    Returns:
        Images and targets (a data set of PyTorch's too), step size, training space, augmentation, network, source data
        and card; every file is verified against the card.

    Raises:
        DataError: missing or damaged files.
        PluginError: an export in a format that no installed plugin reads.
    """
    path = Path(run)
    folder = _folder_with_card(path)
    if folder is None:
        there = "no run and no export" if path.exists() else "missing"
        raise DataError(f"{path} is {there}; expected a run directory or an export")
    found = _read_folder(folder)
    assert found.space is not None and found.step_size is not None and found.step is not None  # its card says so
    names, dtype = found.class_names or (), found.images.dtype
    targets = one_hot(found.targets, len(names)) if found.targets.ndim == 1 else found.targets
    return SyntheticSet(
        images=found.space.encode(found.images * found.space.max_value, dtype) if found.pixels else found.images,
        targets=targets.to(dtype),
        step_size=found.step_size,
        step=found.step,
        space=found.space,
        card=found.card,
        augmentation=_component(found.card, "augment", AbstractAugmentation),
        model=_component(found.card, "model", AbstractModel),
        data=_component(found.card, "data", AbstractDataset),
    )


def _component(card: Card, kind: str, base: type) -> Any:
    """A component as a card describes it, None where its plugin is not installed."""
    table = card.component(kind)
    try:
        return None if table is None else from_table(table, base)
    except (ConfigError, RegistryError):
        return None


def export(learned: SyntheticSet | str | Path, form: str, out: str | Path, *, force: bool = False) -> dict[str, Any]:
    """Writes a learned set for other programs, whole or not at all.

    Args:
        learned: the set, or what `load` takes.
        form: name of a format that a plugin offers, as `ddfw list format` shows them.
        out: a new folder.
        force: replace an export that lies at `out`; anything else that lies there is refused all the same.

    Returns:
        The export's card.

    Raises:
        DataError: missing or damaged files of the run.
        DirectoryInUseError: `out` holds something, and with `force` something else than an export.
        OptionError: the format is only read, or cannot hold these images.
        UnknownComponentError: no plugin offers the format.
    """
    offer = formats().get(form, "--format")
    if not offer.item.writer:
        raise OptionError(f"the format {form} can be read and not written; take another --format")
    learned = learned if isinstance(learned, SyntheticSet) else load(learned)
    return write_export(learned, form, imported(offer.item.writer, offer.plugin), Path(out), force=force)


def read_images(path: str | Path, *, lr: float | None = None) -> ImageSet:
    """Reads labelled images from a run directory, an export, or files that a format knows without a card.

    Args:
        path: what to read. A card says in which format a folder is; without one, the names of the files do.
        lr: the learning rate to use instead of the step size of a set without a card, which may then be any.

    Raises:
        DataError: nothing that can be read, or damaged, or hostile.
        PluginError: an export in a format that no installed plugin reads.
    """
    path = Path(path)
    folder = None if path.is_file() and _recognised(path) else _folder_with_card(path)
    if folder is not None:
        return checked_image_set(_read_folder(folder), path)
    found = _read_files(path)
    return checked_image_set(found if lr is None else evolve(found, step_size=lr), path)


def _read_folder(folder: Path) -> ImageSet:
    """The set in a folder with a card: a run's own, or an export."""
    card = read_card(folder)
    try:
        form = card.format
    except TypeError as error:
        raise DataError(f"{folder / 'card.json'} garbles {error}") from error
    return read_with_card(folder, card, _reader(form, folder) if form else read_synthetic)


def _folder_with_card(path: Path) -> Path | None:
    """The folder that holds the card.json of a run's set or of an export, None where there is none.

    Args:
        path: a run, its `synthetic` folder, an export, or a file that the card beside it names.

    Raises:
        DataError: a run that is not finished, or a damaged card.
    """
    if path.is_file():
        hashes = read_card(path.parent).get("sha256") if (path.parent / "card.json").is_file() else None
        return path.parent if isinstance(hashes, Mapping) and path.name in hashes else None
    folder = path if (path / "card.json").exists() else path / "synthetic"
    if (path / CONFIG).exists() and not folder.exists():
        raise DataError(
            f"{folder / 'card.json'} is missing: the run in {path} is not finished; the same `ddfw run` command "
            "starts it again"
        )
    return folder if (folder / "card.json").exists() or (path / CONFIG).exists() else None


def _readable() -> dict[str, Format]:
    """The formats that can be read, by name."""
    return {name: offer.item for name, offer in formats().entries.items() if offer.item.reader}


def _recognised(path: Path) -> str:
    """The format whose patterns the files of a path fit, "" for none; files nearer to the path decide first.

    Raises:
        DataError: two formats fit.
    """
    readable = _readable()
    for depth in sorted({p.count("/") for form in readable.values() for p in form.globs}):
        fit = [name for name, form in readable.items() if form.recognises(path, depth)]
        if len(fit) > 1:
            raise DataError(f"{path} could be read as {' or as '.join(fit)}; move the files of one of them elsewhere")
        if fit:
            return fit[0]
    return ""


def _read_files(path: Path) -> ImageSet:
    """A set that other programs or people made.

    Raises:
        DataError: no format fits, or damaged or hostile files.
    """
    if form := _recognised(path):
        return _reader(form, path)(path, Card())
    raise DataError(
        f"{path} is {'no set of images' if path.exists() else 'missing'}; expected a run directory (with its "
        f"config.toml), an export, or files of one of the formats {', '.join(_readable())} (`ddfw list format`)"
    )


def _reader(form: str, path: Path) -> SetReader:
    """A format's reader, imported; what it returns is looked at.

    Raises:
        PluginError: no plugin offers the format, or not for reading, or its reader returns no `ImageSet`.
    """
    if form not in _readable() and form not in formats().duplicates:
        raise PluginError(
            f"{path} is in the format {form[:80]!r}, which no installed plugin reads.{did_you_mean(form, _readable())} "
            "Install or enable the plugin that offers it; `ddfw plugins` and `ddfw list format` show what there is"
        )
    offer = formats().get(form)
    read = imported(offer.item.reader, offer.plugin)

    def reader(path: Path, card: Card) -> ImageSet:
        found: object = read(path, card)
        if not isinstance(found, ImageSet):
            raise PluginError(f"plugin {offer.plugin}: {offer.item.reader} returned {type(found)}, no ddfw.ImageSet")
        return found

    return reader
