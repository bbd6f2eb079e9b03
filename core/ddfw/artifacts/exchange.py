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

import io
import re
import shutil
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from attrs import field, frozen

from ddfw.artifacts import atomic, torch_file
from ddfw.artifacts.run_dir import CONFIG
from ddfw.artifacts.synthetic import SyntheticSet, read_card, sealed_card, space_of
from ddfw.errors import DataError, DirectoryInUseError, OptionError

if TYPE_CHECKING:
    from torch import Tensor

    from ddfw.contracts.space import TrainingSpace

FORMATS = ("safetensors", "npz", "mtt", "imagefolder")
Format = Literal["safetensors", "npz", "mtt", "imagefolder"]
EXPORT_SCHEMA = 1
_PNG = {1: "L", 3: "RGB"}
#: A picture larger than this is no member of a learned set.
_LARGEST_SIDE = 4096
_LARGEST_FILE = 2**31


@frozen(kw_only=True, eq=False)
class ImageSet:
    """A set of labelled images from anywhere.

    Args:
        images: [n, C, H, W] floating: in training space, or pixels in [0, 1] where `pixels` says so.
        targets: classes [n] (int64) or probabilities [n, m].
        origin: what it is and where it lies, in words.
        pixels: whether the images are pixels.
        step_size: the learning rate that it was learned for, None if nobody says.
        step: the outer step, where there is one.
        space: the training space that it was learned in, None if nobody says.
        class_names: in the order of the classes, None if nobody says.
        floats: what it stores, {strict, pixels}, None for what its tensors hold.
        card: of an export or a run, {} where there is none.
        notes: what a reader of its figures has to know.
    """

    images: Tensor = field(repr=False)
    targets: Tensor = field(repr=False)
    origin: str
    pixels: bool = False
    step_size: float | None = None
    step: int | None = None
    space: TrainingSpace | None = None
    class_names: tuple[str, ...] | None = None
    floats: Mapping[str, int] | None = None
    card: Mapping[str, Any] = field(factory=dict)
    notes: tuple[str, ...] = ()


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
    if out.is_file() or (out.is_dir() and any(out.iterdir())):
        raise DirectoryInUseError(f"{out} is there already; choose another --out, or remove it")
    out.parent.mkdir(parents=True, exist_ok=True)
    draft = out.with_name(f".{out.name}.tmp")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir()
    try:
        facts, hashes = _WRITERS[form](learned, draft)
        if matrices := learned.space.tensors():
            hashes["space.safetensors"] = atomic.write_tensors(
                draft / "space.safetensors", matrices, {"schema": EXPORT_SCHEMA, "what": "space"}
            )
        kept = {k: v for k, v in learned.card.items() if k not in ("schema", "sha256", "card_sha256", "load")}
        card = sealed_card({"schema": EXPORT_SCHEMA, "format": form, **kept, "export": facts, "sha256": hashes})
        atomic.write_json(draft / "card.json", card)
        if out.is_dir():
            out.rmdir()
        draft.replace(out)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise
    return card


def read(path: Path) -> ImageSet:
    """A set from a run directory, an export, an MTT- or DATM-style `.pt` file or folder, or a folder of class folders.

    Args:
        path: what to read. Of `.pt` files, `images*.pt` is read with the `labels*.pt` and, if there is one, the
            `lr*.pt` beside it; a folder is searched for `images_best.pt` first.

    Raises:
        DataError: nothing that can be read, or damaged, or hostile.
    """
    if any((path / mark).exists() for mark in ("card.json", "synthetic", CONFIG)):
        folder = path / "synthetic" if (path / CONFIG).exists() or (path / "synthetic").is_dir() else path
        card = read_card(folder)
        return _read_export(folder, card) if "format" in card else _of_run(folder)
    if path.is_file() and path.suffix in (".safetensors", ".npz"):
        return _read_export(path.parent, read_card(path.parent))
    if path.is_dir():
        if found := sorted(path.glob("images*.pt"), key=lambda p: (p.name != "images_best.pt", p.name)):
            return _read_tensors(found[0])
        return _read_folder(path)
    if path.suffix == ".pt":
        return _read_tensors(path)
    expected = "expected a run directory (with its config.toml), an export, images*.pt or a folder of class folders"
    raise DataError(f"{path} is {'no set of images' if path.exists() else 'missing'}; {expected}")


def load(path: Path) -> SyntheticSet:
    """A run's set or an export of one as a `SyntheticSet`; only these say what training space they live in.

    Raises:
        DataError: missing, damaged, or without a card.
    """
    from ddfw.artifacts import synthetic

    folder = path if path.is_dir() else path.parent
    if (folder / "synthetic").is_dir() or "format" not in (card := read_card(folder)):
        return synthetic.load(folder)
    found = _read_export(folder, card)
    assert found.space is not None and found.step_size is not None and found.step is not None
    images = found.space.encode(found.images * found.space.max_value, found.images.dtype)
    return SyntheticSet(
        images=images if found.pixels else found.images,
        targets=_rows(found.targets, len(card["source_data"]["class_names"])).to(found.images.dtype),
        step_size=found.step_size,
        step=found.step,
        space=found.space,
        card=card,
    )


def _rows(targets: Tensor, num_classes: int) -> Tensor:
    from torch.nn.functional import one_hot

    return one_hot(targets, num_classes) if targets.ndim == 1 else targets


def _of_run(folder: Path) -> ImageSet:
    from ddfw.artifacts import synthetic

    found = synthetic.load(folder)
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
    one_hot = bool((learned.targets.max(dim=1).values == 1).all())
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
        form, names = card["format"], tuple(card["source_data"]["class_names"])
        for name, sha256 in card["sha256"].items():
            if not (folder / name).resolve().is_relative_to(folder.resolve()):
                raise DataError(f"{where} names {name!r}, which lies outside of its folder")
            atomic.verify(folder / name, sha256)
        facts: dict[str, Any] = {
            "origin": f"{card.get('what', 'a learned set')}, exported as {form} to {folder}",
            "step_size": float(card["step_size"]),
            "step": int(card["selected"]["step"]),
            "space": space_of(card, folder),
            "class_names": names,
            "floats": _floats(card),
            "card": card,
        }
        if form == "safetensors":
            found = atomic.read_tensors(folder / "set.safetensors", card["sha256"]["set.safetensors"])
            return ImageSet(images=found["images"], targets=found["targets"], **facts)
        if form == "npz":
            images, targets = _npz_arrays(folder / "set.npz")
            return ImageSet(images=images, targets=targets, **facts)
        if form == "mtt":
            found_set = _read_tensors(folder / "images_best.pt")
            return ImageSet(images=found_set.images, targets=found_set.targets, **facts)
        if form == "imagefolder":
            return _read_pngs(folder, card, facts)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(f"{where} lacks or garbles {error}") from error
    raise DataError(f"{where} says format {form!r}; known: {', '.join(FORMATS)}")


def _npz_arrays(path: Path) -> tuple[Tensor, Tensor]:
    import numpy as np
    import torch

    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            return torch.from_numpy(archive["images"]), torch.from_numpy(archive["targets"])
    except (OSError, KeyError, ValueError, EOFError) as error:
        raise DataError(f"{path} is not an export of ours") from error


def _read_pngs(folder: Path, card: Mapping[str, Any], facts: Mapping[str, Any]) -> ImageSet:
    import torch

    rows = card["export"]["images"]
    if unknown := [row["file"] for row in rows if row["file"] not in card["sha256"]]:
        raise DataError(f"{folder / 'card.json'} names {unknown[0]!r}, which is not one of its files")
    targets = torch.tensor([row["target"] for row in rows])
    images = torch.stack([_picture(folder / row["file"], None) for row in rows])
    note = "8-bit pixels: rounded and clipped, see the card of the export"
    return ImageSet(images=images, targets=targets, pixels=True, notes=(note,), **facts)


def _read_tensors(path: Path) -> ImageSet:
    """`images*.pt` with its labels and, where there is one, its learning rate."""
    if not path.name.startswith("images"):
        raise DataError(f"{path}: expected a file images*.pt, with labels*.pt beside it")
    images = _tensor(path)
    labels = _tensor(path.with_name("labels" + path.name.removeprefix("images")))
    if images.ndim != 4 or not images.is_floating_point() or not len(images):
        raise DataError(f"{path} holds {tuple(images.shape)} {images.dtype}, expected floating images [n, C, H, W]")
    if len(labels) != len(images) or labels.ndim not in (1, 2):
        raise DataError(f"{path}: {len(images)} images, but labels {tuple(labels.shape)}; expected [n] or [n, m]")
    if not (images.isfinite().all() and labels.isfinite().all()):
        raise DataError(f"{path}: images or labels are not all finite numbers")
    notes: tuple[str, ...] = ()
    if labels.ndim == 2 and not _probabilities(labels):
        labels, notes = labels.double().softmax(dim=1), ("labels were logits; their softmax is taken",)
    elif labels.ndim == 1 and not bool((labels == labels.double().round()).all()):
        raise DataError(f"{path}: labels [n] have to be whole numbers")
    rate = path.with_name("lr" + path.name.removeprefix("images"))
    return ImageSet(
        images=images,
        targets=labels.long() if labels.ndim == 1 else labels.to(images.dtype),
        origin=f"images and labels in {path.parent}",
        step_size=_rate(rate) if rate.is_file() else None,
        notes=notes,
    )


def _probabilities(labels: Tensor) -> bool:
    rows = labels.double()
    return bool((rows >= 0).all()) and bool(((rows.sum(dim=1) - 1).abs() < 1e-3).all())


def _tensor(path: Path) -> Tensor:
    import torch

    torch_file.check_archive(path)
    found = torch_file.load(path, "a file of one tensor")
    if not isinstance(found, torch.Tensor) or found.layout != torch.strided or found.is_quantized:
        raise DataError(f"{path} holds a {type(found).__name__}, expected one ordinary tensor")
    return torch_file.plain(found).clone()


def _rate(path: Path) -> float:
    found = _tensor(path)
    if found.numel() != 1 or not 0 < float(found) < float("inf"):
        raise DataError(f"{path} holds no positive learning rate")
    return float(found)


def _read_folder(folder: Path) -> ImageSet:
    """A folder of class folders with pictures of one size."""
    import torch

    classes = sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
    images: list[Tensor] = []
    labels = []
    for label, place in enumerate(classes):
        files = sorted(p for p in place.iterdir() if p.is_file() and not p.name.startswith("."))
        if not files:
            raise DataError(f"{place} holds no images")
        for file in files:
            images.append(_picture(file, images[0] if images else None))
            labels.append(label)
    if not images:
        raise DataError(f"{folder} is no set of images: no images*.pt, no card.json and no class folders in it")
    return ImageSet(
        images=torch.stack(images),
        targets=torch.tensor(labels),
        origin=f"pictures in {folder}",
        pixels=True,
        class_names=tuple(p.name for p in classes),
    )


def _picture(path: Path, like: Tensor | None) -> Tensor:
    """A picture [C, H, W] in [0, 1]; grey ones have one channel."""
    import numpy as np
    import torch
    from PIL import Image

    try:
        if path.stat().st_size > _LARGEST_FILE:
            raise DataError(f"{path} is too large for a picture of a set")
        with warnings.catch_warnings(), Image.open(path) as picture:
            warnings.simplefilter("error")
            if max(picture.size) > _LARGEST_SIDE:
                raise DataError(f"{path} is {picture.size[0]}×{picture.size[1]}; at most {_LARGEST_SIDE} a side")
            grey = picture.mode in ("1", "L", "LA") if like is None else len(like) == 1
            array = np.array(picture.convert("L" if grey else "RGB"), dtype=np.float32) / 255
    except DataError:
        raise
    except Exception as error:
        # Pillow meets damage with whatever comes up: OSError, SyntaxError, ValueError, DecompressionBombError, …
        raise DataError(f"{path} is not a readable picture ({type(error).__name__})") from error
    tensor = torch.from_numpy(array[None] if grey else array.transpose(2, 0, 1).copy())
    if like is not None and tensor.shape != like.shape:
        raise DataError(f"{path} is {tuple(tensor.shape)}, the pictures before it {tuple(like.shape)}")
    return tensor
