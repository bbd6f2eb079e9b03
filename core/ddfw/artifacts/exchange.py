"""Sets of images that travel: exports of what was learned, and sets that other programs or people made.

An export is a folder with a card.json and, by format:

* `safetensors`: set.safetensors with `images` [n, C, H, W] in training space and `targets` [n, m];
* `npz`: set.npz with the same, and `labels` [n], `pixels` [n, C, H, W] in [0, 1] unclipped, `step_size`;
* `mtt`: images_best.pt, labels_best.pt (classes [n] where every target is one, else probabilities [n, m], as DATM
  writes them) and lr_best.pt, tensors alone;
* `imagefolder`: a folder of 8-bit PNGs for each class.

Shapes: n images, C channels, H rows, W columns, m classes.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import secrets
import shutil
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ddfw.artifacts import atomic
from ddfw.artifacts.image_set import ImageSet, checked, picture, rank, read_folder, read_tensors
from ddfw.artifacts.run_dir import CONFIG
from ddfw.artifacts.synthetic import SyntheticSet, read_card, sealed_card, space_of
from ddfw.errors import DataError, DirectoryInUseError, OptionError

if TYPE_CHECKING:
    from torch import Tensor


FORMATS = ("safetensors", "npz", "mtt", "imagefolder")
Format = Literal["safetensors", "npz", "mtt", "imagefolder"]
EXPORT_SCHEMA = 1
#: What every card says for itself.
_OWN_KEYS = ("schema", "format", "export", "sha256", "card_sha256", "load")
_LARGEST_ARCHIVE = 2**30
_SINGLE = (".safetensors", ".npz")
_PNG = {1: "L", 3: "RGB"}


def export(learned: SyntheticSet, form: Format, out: Path) -> dict[str, Any]:
    """Writes a learned set as a folder, whole or not at all.

    Args:
        learned: the set.
        form: one of `FORMATS`.
        out: the folder; it must not exist, or be empty.

    Returns:
        Its card.

    Raises:
        DirectoryInUseError: something is there.
        OptionError: images that PNG cannot hold.
    """
    out = Path(os.path.abspath(out))
    if out.is_file() or (out.is_dir() and any(out.iterdir())):
        raise DirectoryInUseError(f"{out} is there already; choose another --out, or remove it")
    made = [p for p in (out.parent, *out.parent.parents) if not p.exists()]
    out.parent.mkdir(parents=True, exist_ok=True)
    draft = out.with_name(f".{out.name}.{secrets.token_hex(4)}.tmp")
    try:
        draft.mkdir()
        facts, hashes = _WRITERS[form](learned, draft)
        if matrices := learned.space.tensors():
            hashes["space.safetensors"] = atomic.write_tensors(
                draft / "space.safetensors", matrices, {"schema": EXPORT_SCHEMA, "what": "space"}
            )
        kept = {k: v for k, v in learned.card.items() if k not in _OWN_KEYS}
        facts = {**facts, "dtype": str(learned.images.dtype).removeprefix("torch.")}
        card = sealed_card({"schema": EXPORT_SCHEMA, "format": form, **kept, "export": facts, "sha256": hashes})
        atomic.write_json(draft / "card.json", card)
        if out.is_dir():
            out.rmdir()
        draft.replace(out)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        for folder in made:
            with contextlib.suppress(OSError):
                folder.rmdir()
        raise
    return card


def read_images(path: Path) -> ImageSet:
    """A set from a run directory, an export, an MTT- or DATM-style `.pt` file or folder, or a folder of class folders.

    Args:
        path: what to read. Of `.pt` files, `images*.pt` is read with the `labels*.pt` and, if there is one, the
            `lr*.pt` beside it; of a folder of them `images_best.pt`, or the one with the highest number.

    Raises:
        DataError: nothing that can be read, or damaged, or hostile.
    """
    return checked(_read(path), path)


def _read(path: Path) -> ImageSet:
    if any((path / mark).exists() for mark in ("card.json", "synthetic/card.json", CONFIG)):
        folder = path if (path / "card.json").exists() else path / "synthetic"
        if (path / CONFIG).exists() and not (path / "synthetic").exists():
            raise DataError(
                f"{folder / 'card.json'} is missing: the run in {path} is not finished; the same `ddfw run` command "
                "starts it again"
            )
        card = read_card(folder)
        return _read_export(folder, card) if "format" in card else _of_run(folder)
    if path.is_file() and path.suffix in _SINGLE:
        return _read_export(path.parent, read_card(path.parent))
    if path.is_dir():
        if found := max(path.glob("images*.pt"), key=rank, default=None):
            return read_tensors(found)
        return read_folder(path)
    if path.suffix == ".pt":
        return read_tensors(path)
    expected = "expected a run directory (with its config.toml), an export, images*.pt or a folder of class folders"
    raise DataError(f"{path} is {'no set of images' if path.exists() else 'missing'}; {expected}")


def load_set(path: Path) -> SyntheticSet:
    """A run's set or an export of one as a `SyntheticSet`; only these say what training space they live in.

    Raises:
        DataError: missing, damaged, or without a card.
    """
    from ddfw.artifacts import synthetic

    if not path.is_dir() and not (path.is_file() and path.suffix in _SINGLE):
        raise DataError(
            f"{path} is {'no run and no export' if path.exists() else 'missing'}; expected a run directory or an export"
        )
    folder = path if path.is_dir() else path.parent
    if (folder / "synthetic").is_dir() or "format" not in (card := read_card(folder)):
        return synthetic.read_set(folder)
    found = _read_export(folder, card)
    assert found.space is not None and found.step_size is not None and found.step is not None
    targets = _rows(found.targets, len(found.class_names or ()))
    images = found.space.encode(found.images * found.space.max_value, found.images.dtype)
    return SyntheticSet(
        images=images if found.pixels else found.images,
        targets=targets.to(found.images.dtype),
        step_size=found.step_size,
        step=found.step,
        space=found.space,
        card=card,
    )


def _of_run(folder: Path) -> ImageSet:
    from ddfw.artifacts import synthetic

    found = synthetic.read_set(folder)
    return ImageSet(
        images=found.images,
        targets=found.targets,
        origin=f"{found.card.get('what', 'a learned set')} in {folder}",
        step_size=found.step_size,
        step=found.step,
        space=found.space,
        class_names=found.class_names,
        floats=_floats(found.card),
        card=found.card,
    )


def _floats(card: Mapping[str, Any]) -> Mapping[str, int] | None:
    try:
        return {key: int(card["floats"][key]) for key in ("strict", "pixels")}
    except (KeyError, TypeError, ValueError):
        return None


def _safetensors(learned: SyntheticSet, folder: Path) -> tuple[dict[str, Any], dict[str, str]]:
    name, tensors = "set.safetensors", {"images": learned.images, "targets": learned.targets}
    return {"file": name}, {
        name: atomic.write_tensors(folder / name, tensors, {"schema": EXPORT_SCHEMA, "what": "set"})
    }


def _npz(learned: SyntheticSet, folder: Path) -> tuple[dict[str, Any], dict[str, str]]:
    import numpy as np

    buffer = io.BytesIO()
    np.savez(
        buffer,
        images=learned.images.numpy(),
        targets=learned.targets.numpy(),
        labels=learned.targets.argmax(dim=1).numpy(),
        pixels=learned.space.decode(learned.images).numpy(),
        step_size=np.array(learned.step_size),
        class_names=np.array(learned.class_names),
    )
    return {"file": "set.npz"}, {"set.npz": atomic.write_bytes(folder / "set.npz", buffer.getvalue())}


def _mtt(learned: SyntheticSet, folder: Path) -> tuple[dict[str, Any], dict[str, str]]:
    import torch

    hard = learned.targets.argmax(dim=1)
    one_hot = bool((learned.targets == _rows(hard, learned.targets.shape[1])).all())
    tensors = {
        "images_best.pt": learned.images,
        "labels_best.pt": hard if one_hot else learned.targets,
        "lr_best.pt": torch.tensor(learned.step_size, dtype=torch.float64),
    }
    hashes = {}
    for name, tensor in tensors.items():
        buffer = io.BytesIO()
        torch.save(tensor.detach().cpu().contiguous().clone(), buffer)
        hashes[name] = atomic.write_bytes(folder / name, buffer.getvalue())
    return {"labels": "classes" if one_hot else "probabilities", "files": list(tensors)}, hashes


def _imagefolder(learned: SyntheticSet, folder: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """8-bit PNGs, with what rounding and clipping cost."""
    import numpy as np
    from PIL import Image

    channels = learned.images.shape[1]
    if channels not in _PNG:
        raise OptionError(f"a PNG holds 1 or 3 channels, these images have {channels}; take safetensors or npz")
    pixels = learned.space.decode(learned.images)
    bytes_ = pixels.clamp(0, 1).mul(255).round().byte()
    classes = learned.targets.argmax(dim=1).tolist()
    width = len(str(len(learned.class_names) - 1))
    hashes: dict[str, str] = {}
    rows = []
    for number, (image, label) in enumerate(zip(bytes_, classes, strict=True)):
        safe = re.sub(r"[^\w.-]+", "_", learned.class_names[label]) or "class"
        name = f"{label:0{width}d}-{safe}/{number:05d}.png"
        (folder / name).parent.mkdir(exist_ok=True)
        array = image.permute(1, 2, 0).numpy()
        buffer = io.BytesIO()
        Image.fromarray(np.ascontiguousarray(array[..., 0] if channels == 1 else array)).save(buffer, format="PNG")
        hashes[name] = atomic.write_bytes(folder / name, buffer.getvalue())
        rows.append({"file": name, "target": [float(v) for v in learned.targets[number]]})
    shown = bytes_.to(learned.images.dtype) / 255
    again = learned.space.encode(shown * learned.space.max_value, learned.images.dtype)
    error, clipped = (again - learned.images).abs(), ((pixels < 0) | (pixels > 1)).double().mean()
    facts = {
        "images": rows,
        "rounding": {
            "what": "what 8-bit pixels cost: training-space values after a round trip against those before it",
            "largest": float(error.max()),
            "root_mean_square": float(error.square().mean().sqrt()),
            "clipped_fraction": float(clipped),
        },
    }
    return facts, hashes


_WRITERS: Mapping[Format, Callable[[SyntheticSet, Path], tuple[dict[str, Any], dict[str, str]]]] = {
    "safetensors": _safetensors,
    "npz": _npz,
    "mtt": _mtt,
    "imagefolder": _imagefolder,
}


def _read_export(folder: Path, card: Mapping[str, Any]) -> ImageSet:
    """An export, every file verified against its card."""
    where = folder / "card.json"
    try:
        form, names, hashes = card["format"], tuple(card["source_data"]["class_names"]), dict(card["sha256"])
        for name, sha256 in hashes.items():
            if not (folder / name).resolve().is_relative_to(folder.resolve()):
                raise DataError(f"{where} names {name!r}, which lies outside of its folder")
            atomic.verify(folder / name, str(sha256))
        for part in ("floats", "experts", "components", "selected"):
            if not isinstance(card.get(part, {}), Mapping):
                raise DataError(f"{where} garbles {part!r}")
        facts: dict[str, Any] = {
            "origin": f"{card.get('what', 'a learned set')}, exported as {form} to {folder}",
            "step_size": float(card["step_size"]),
            "step": int(card["selected"]["step"]),
            "space": space_of(card, folder),
            "class_names": names,
            "floats": _floats(card),
            "card": card,
        }
        return _READERS[form](folder, hashes, card, facts)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, IndexError) as error:
        raise DataError(f"{where} lacks or garbles {' '.join(str(error).split())[:200]}") from error


def _from_safetensors(
    folder: Path, hashes: Mapping[str, str], card: Mapping[str, Any], facts: Mapping[str, Any]
) -> ImageSet:
    found = atomic.read_tensors(folder / "set.safetensors", hashes["set.safetensors"])
    return ImageSet(images=found["images"], targets=found["targets"], **facts)


def _from_npz(folder: Path, hashes: Mapping[str, str], card: Mapping[str, Any], facts: Mapping[str, Any]) -> ImageSet:
    atomic.verify(folder / "set.npz", hashes["set.npz"])
    images, targets = _npz_arrays(folder / "set.npz")
    return ImageSet(images=images, targets=targets, **facts)


def _from_mtt(folder: Path, hashes: Mapping[str, str], card: Mapping[str, Any], facts: Mapping[str, Any]) -> ImageSet:
    for name in ("images_best.pt", "labels_best.pt"):
        atomic.verify(folder / name, hashes[name])
    found = read_tensors(folder / "images_best.pt")
    return ImageSet(images=found.images, targets=found.targets, **facts)


def _from_pictures(
    folder: Path, hashes: Mapping[str, str], card: Mapping[str, Any], facts: Mapping[str, Any]
) -> ImageSet:
    import torch

    rows, dtype = (
        card["export"]["images"],
        {"float32": torch.float32, "float64": torch.float64}[card["export"]["dtype"]],
    )
    if not rows:
        raise DataError(f"{folder / 'card.json'} lists no images")
    for row in rows:
        atomic.verify(folder / row["file"], hashes[row["file"]])
    targets = torch.tensor([row["target"] for row in rows], dtype=torch.float64).to(dtype)
    images = torch.stack([picture(folder / row["file"], None) for row in rows]).to(dtype)
    note = "8-bit pixels: rounded and clipped, see the card of the export"
    return ImageSet(images=images, targets=targets, pixels=True, notes=(note,), **facts)


_READERS = {
    "safetensors": _from_safetensors,
    "npz": _from_npz,
    "mtt": _from_mtt,
    "imagefolder": _from_pictures,
}


def _npz_arrays(path: Path) -> tuple[Tensor, Tensor]:
    import numpy as np
    import torch

    try:
        with zipfile.ZipFile(path) as members:
            if sum(member.file_size for member in members.infolist()) > _LARGEST_ARCHIVE:
                raise DataError(f"{path} unpacks to more than a set is taken to hold")
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            return torch.from_numpy(archive["images"]), torch.from_numpy(archive["targets"])
    except (OSError, KeyError, ValueError, EOFError, MemoryError, TypeError, zipfile.BadZipFile) as error:
        raise DataError(f"{path} is not a readable archive of images and targets") from error


def _rows(targets: Tensor, num_classes: int) -> Tensor:
    from torch.nn.functional import one_hot

    return one_hot(targets, num_classes) if targets.ndim == 1 else targets
