"""Exports: a learned set as a folder of files in some format, beside a card.json that holds their hashes.

What the files are is a format's business, and formats are plugins: what is here is the same for all of them.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from attrs import evolve

from ddfw.artifacts import atomic
from ddfw.artifacts.image_set import MAX_SET, ImageSet
from ddfw.artifacts.synthetic import SyntheticSet, require_finite_set, sealed_card, space_of
from ddfw.artifacts.temporaries import temporary_beside, tidy
from ddfw.contracts.records import Card, as_card
from ddfw.errors import DataError, DirectoryInUseError, PluginError

#: Reads a set: from an export's folder and its card, or from any other path and {}.
SetReader = Callable[[Path, Card], ImageSet]
#: Writes a set's files into an empty folder and returns facts for the card.
SetWriter = Callable[[SyntheticSet, Path], Mapping[str, Any]]

EXPORT_SCHEMA = 1
_SPACE = "space.safetensors"
#: What every card says for itself.
_OWN_KEYS = ("schema", "format", "export", "sha256", "card_sha256", "load")


def write_export(
    learned: SyntheticSet, form: str, write: SetWriter, out: Path, *, force: bool = False
) -> dict[str, Any]:
    """Writes a learned set as a folder, whole or not at all.

    Args:
        learned: the set.
        form: the format's name, which the card keeps.
        write: the format's writer.
        out: the folder; it must not exist, or be empty.
        force: an export that lies there is replaced, once the new one is whole; nothing else is.

    Returns:
        Its card.

    Raises:
        DirectoryInUseError: something is there that is not to be replaced.
        DivergedError: the set is not finite.
        PluginError: the writer wrote nothing, or files whose names are taken, or returned no mapping.
    """
    require_finite_set({"images": learned.images, "targets": learned.targets}, str(out))
    out = Path(os.path.abspath(out))
    tidy(out.parent, target=out.name)
    replaced = _replaced(out, force=force)
    atomic.require_room(out)
    made = [p for p in (out.parent, *out.parent.parents) if not p.exists()]
    out.parent.mkdir(parents=True, exist_ok=True)
    draft = temporary_beside(out)
    try:
        with atomic.writing(out, learned.images.nbytes + learned.targets.nbytes):
            draft.mkdir()
            facts = write(learned, draft)
            written = sorted((p for p in draft.rglob("*") if p.is_file()), key=lambda p: (p.name, p))
            hashes = {p.relative_to(draft).as_posix(): _synced_sha256(p) for p in written}
            if not isinstance(facts, Mapping) or not hashes or hashes.keys() & {_SPACE, "card.json"}:
                made_of = f"wrote {', '.join(hashes) or 'nothing'} and returned a {type(facts).__name__}"
                raise PluginError(
                    f"the format {form} {made_of}; expected files of its own names, and a mapping of facts"
                )
            if matrices := learned.space.tensors():
                hashes[_SPACE] = atomic.write_tensors(
                    draft / _SPACE, matrices, {"schema": EXPORT_SCHEMA, "what": "space"}
                )
            kept = {k: v for k, v in learned.card.items() if k not in _OWN_KEYS}
            facts = {**facts, "dtype": str(learned.images.dtype).removeprefix("torch.")}
            card = sealed_card({"schema": EXPORT_SCHEMA, "format": form, **kept, "export": facts, "sha256": hashes})
            atomic.write_json(draft / "card.json", card)
            _put(draft, out, replaced)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        for folder in made:
            with contextlib.suppress(OSError):
                folder.rmdir()
        raise
    return card


def _replaced(out: Path, *, force: bool) -> bool:
    """Whether an export lies at a path and shall be replaced; False where nothing lies there.

    Raises:
        DirectoryInUseError: something lies there that is not to be replaced.
    """
    if out.is_symlink() or out.is_file() or (out.is_dir() and any(out.iterdir())):
        strange = _strange(out)
        if strange:
            raise DirectoryInUseError(f"{out} is there already and {strange}; choose another --out, or remove it")
        if not force:
            raise DirectoryInUseError(
                f"{out} is there already, an export of ddfw; --force replaces it, or choose another --out"
            )
        return True
    return False


def _strange(out: Path) -> str:
    """Why what lies at a path is no export of ddfw's with nothing else in it, in words; "" if it is one."""
    if out.is_symlink() or not out.is_dir():
        return "is no folder"
    with contextlib.suppress(DataError, TypeError, AttributeError, ValueError):
        card = as_card(atomic.read_json(out / "card.json"))
        found = {p.relative_to(out).as_posix() for p in out.rglob("*") if p.is_symlink() or not p.is_dir()}
        if card.format and (more := sorted(found - {*card.hashes, "card.json"})):
            return f"holds {more[0]}, which is no part of the export there"
        if card.format:
            return ""
    return "holds something else than an export"


def _put(draft: Path, out: Path, replaced: bool) -> None:
    """Moves a finished folder to its place; the export that it replaces is removed after that."""
    if not replaced:
        if out.is_dir():
            out.rmdir()
        draft.replace(out)
        return
    old = temporary_beside(out)
    out.replace(old)
    try:
        draft.replace(out)
    except BaseException:
        old.replace(out)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _synced_sha256(path: Path) -> str:
    """The sha256 of a file, once it is on the disk."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
    return atomic.file_sha256(path)


def read_with_card(folder: Path, card: Mapping[str, Any], read: SetReader) -> ImageSet:
    """The set of an export or a run; its reader is called when every file that the card names has been verified.

    Args:
        folder: where the card lies.
        card: its content.
        read: gives images and targets; the card says the rest.

    Raises:
        DataError: missing or damaged files, or a card that lacks or garbles something.
    """
    where, card = folder / "card.json", as_card(card)
    try:
        for name, sha256 in card.hashes.items():
            # A link that leads to itself makes a RuntimeError.
            if not (folder / name).resolve().is_relative_to(folder.resolve()):
                raise DataError(f"{where} names {name!r}, which lies outside of its folder")
            atomic.verify(folder / name, sha256, MAX_SET)
        for part in ("floats", "experts", "components", "selected"):
            if not isinstance(card.get(part, {}), Mapping):
                raise DataError(f"{where} garbles {part!r}")
        if not isinstance(card["source_data"]["class_names"], list):
            raise DataError(f"{where} garbles 'class_names'")
        form = f", exported as {card.format} to" if card.format else " in"
        return evolve(
            read(folder, card),
            origin=f"{card.what}{form} {folder}",
            step_size=card.step_size,
            step=card.step,
            space=space_of(card, folder),
            class_names=card.class_names,
            floats=card.floats,
            card=card,
        )
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, IndexError, RuntimeError) as error:
        raise DataError(f"{where} lacks or garbles {' '.join(str(error).split())[:200]}") from error
