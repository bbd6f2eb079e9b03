"""Learned sets, looked up: `ddfw.load`, `ddfw.export` and `ddfw.read_images`, with the formats that plugins offer."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from attrs import evolve
from torch.nn.functional import one_hot

from ddfw.artifacts.exports import SetReader, read_with_card, write_export
from ddfw.artifacts.image_set import ImageSet, checked_image_set
from ddfw.artifacts.opening import require_honest
from ddfw.artifacts.run_dir import CONFIG
from ddfw.artifacts.synthetic import SyntheticSet, read_card, read_synthetic
from ddfw.artifacts.tensor_file import refuse_not_finite
from ddfw.config.catalog import from_table
from ddfw.config.extensions import formats, imported
from ddfw.config.foreign import component_of_card, read_run_file
from ddfw.contracts.augmentation import AbstractAugmentation
from ddfw.contracts.dataset import AbstractDataset
from ddfw.contracts.format import Format
from ddfw.contracts.model import AbstractModel
from ddfw.contracts.records import Card
from ddfw.errors import ConfigError, DataError, OptionError, PluginError, RegistryError, did_you_mean
from ddfw.process.isolation import isolated

#: Files of sets that hold no images: what a run stores, a training space, and the labels of a run's own set.
_BESIDE, _LABELS = ("params.safetensors", "space.safetensors"), "labels.safetensors"


@isolated
def load(run: str | Path) -> SyntheticSet:
    """Loads what a run learned.

    Args:
        run: the run directory, its `synthetic` folder, or what `ddfw export` wrote.

    Returns:
        Images and targets (a data set of PyTorch's too), step size, training space, augmentation, network, source data
        and card; every file is verified against the card.

    Raises:
        DataError: missing or damaged files, or tensors of wrong shapes, dtypes or values.
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
    if found.targets.ndim == 1:  # long lists of images and of names would make a table of both
        packed = found.images.nbytes + found.targets.nbytes
        require_honest(path, packed, 8 * len(found.images) * len(names), "export it with soft labels")
    tables = _own_tables(folder)
    targets = one_hot(found.targets, len(names)) if found.targets.ndim == 1 else found.targets
    images = found.space.encode(found.images * found.space.max_value, dtype) if found.pixels else found.images
    refuse_not_finite(path, {"its images in training space": images})
    return SyntheticSet(
        images=images,
        targets=targets.to(dtype),
        step_size=found.step_size,
        step=found.step,
        space=found.space,
        card=found.card,
        augmentation=_component(found.card, tables, "augment", AbstractAugmentation),
        model=_component(found.card, tables, "model", AbstractModel),
        data=_component(found.card, tables, "data", AbstractDataset),
    )


def _own_tables(folder: Path) -> Mapping[str, Any]:
    """The configuration of a set's run, {} where there is none or the user has not run it here."""
    path = folder.parent / CONFIG
    if folder.name != "synthetic" or not path.is_file():
        return {}
    with suppress(DataError):
        file = read_run_file(path, trust=False)
        return file.tables if file.own else {}
    return {}


def _component(card: Card, own: Mapping[str, Any], kind: str, base: type) -> Any:
    """A component as the user's own configuration describes it, or else as a card does.

    None where its plugin is not installed, or where the card says what no card may: a path, or a size beyond bounds.
    """
    table = own.get(kind, card.component(kind))
    try:
        if table is None:
            return None
        return from_table(table if kind in own else component_of_card(kind, table, Path("card.json")), base)
    except (ConfigError, DataError, RegistryError):
        return None


@isolated
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
    if not isinstance(learned, SyntheticSet):
        learned = load(learned)
    values = learned.images.isfinite().all() and learned.targets.isfinite().all()
    if not (bool(values) and 0 < learned.step_size < math.inf):
        raise DataError(
            f"the set has values that are no numbers, or the step size {learned.step_size}; nothing was written"
        )
    return write_export(
        learned, form, imported(offer.item.writer, offer.plugin, f"format {offer.name}"), Path(out), force=force
    )


@isolated
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
        return _read_folder(folder)
    found = _read_files(path)
    return checked_image_set(found if lr is None else evolve(found, step_size=lr), path)


def _read_folder(folder: Path) -> ImageSet:
    """The set in a folder with a card, checked: a run's own, or an export."""
    card = read_card(folder)
    try:
        form = card.format
    except TypeError as error:
        raise DataError(f"{folder / 'card.json'} garbles {error}") from error
    found = read_with_card(folder, card, _reader(form, folder) if form else read_synthetic)
    own = [name for name in card.hashes if name not in (*_BESIDE, _LABELS)]
    labels = folder / _LABELS if _LABELS in card.hashes else None
    return checked_image_set(
        found, folder / own[0] if len(own) == 1 else folder, labels=labels, card=folder / "card.json"
    )


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
    read = imported(offer.item.reader, offer.plugin, f"format {offer.name}")

    def reader(path: Path, card: Card) -> ImageSet:
        found: object = read(path, card)
        if not isinstance(found, ImageSet):
            raise PluginError(f"plugin {offer.plugin}: {offer.item.reader} returned {type(found)}, no ddfw.ImageSet")
        return found

    return reader
