"""Hostile tar archives, torch files, pictures and JSON files."""

from __future__ import annotations

import io
import itertools
import os
import pickle
import random
import shutil
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from attrs import evolve
from hostile_headers import OLD, reseal
from hostile_npz import Canary
from PIL import Image, PngImagePlugin

import ddfw
from ddfw.artifacts.replay_buffer import ReplayBuffer
from ddfw.engine.inner import Network
from ddfw_plugins.datasets import _official
from ddfw_plugins.datasets.imagefolder import ImageFolder

Readers = list[Callable[[], object]]
Case = tuple[str, Readers]
#: What an archive of CIFAR-10 should hold, with limits of tiny files.
FOLDER = "cifar-10-batches-py"
MEMBERS = [f"{FOLDER}/data_batch_1", f"{FOLDER}/test_batch"]


# --- tar archives -------------------------------------------------------------------------------------------------


def _entry(rng: random.Random) -> tuple[tarfile.TarInfo, bytes]:
    """A member that an archive should not have."""
    name = rng.choice(
        [
            "../canary",
            f"{FOLDER}/../../canary",
            os.path.abspath("canary"),
            *MEMBERS,
            f"{FOLDER}/x",
            "n" * 100_000,
            "\u202ecanary",
            "a\nb",
        ]
    )
    info = tarfile.TarInfo(name)
    kinds = (tarfile.REGTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE)
    info.type = rng.choice([tarfile.REGTYPE, *kinds, tarfile.GNUTYPE_SPARSE, b"Z"])
    info.linkname = rng.choice(["", "/etc/passwd", "../../canary", "x" * 5000])
    content = bytes(rng.choice([0, 1, 1000, 50_000_000])) if info.type == tarfile.REGTYPE else b""
    info.size = len(content)
    if rng.random() < 0.3:
        info.pax_headers = {
            rng.choice(["comment", "path", "size", "GNU.sparse.map"]): rng.choice(["1", "-1", "x" * 3_000_000])
        }
    return info, content


def _tar(path: Path, rng: random.Random) -> None:
    with tarfile.open(path, "w:gz", compresslevel=1, format=tarfile.PAX_FORMAT) as tar:
        for _ in range(rng.choice([1, 2, 5])):
            info, content = _entry(rng)
            tar.addfile(info, io.BytesIO(content))
    if rng.random() < 0.4:
        path.write_bytes(_damaged(path.read_bytes(), rng))


def _tars(place: Path, rng: random.Random, count: int) -> Iterator[Case]:
    for name in MEMBERS:
        _official.FILES[name] = evolve(_official.FILES[name], limit=100_000)
    root, path = place / "below" / "root", place / "archive.tar.gz"
    root.mkdir(parents=True)
    for number in range(count):
        _tar(path, rng)
        yield f"tar {number}", [lambda: _official.unpack(path, root, MEMBERS)]
        assert not list(root.rglob("*")), "a hostile archive wrote a file"
    path.unlink()
    os.symlink("/dev/zero", path)
    yield "a tar that is /dev/zero", [lambda: _official.unpack(path, root, MEMBERS)]


def _damaged(data: bytes, rng: random.Random) -> bytes:
    if rng.random() < 0.3:
        return data[: rng.randrange(len(data))]
    changed = bytearray(data)
    for _ in range(rng.choice([1, 1, 5, 50])):
        changed[rng.randrange(len(data))] = rng.randrange(256)
    return bytes(changed)


# --- torch files --------------------------------------------------------------------------------------------------


class Call:
    """Unpickling it calls a function."""

    def __init__(self, function: object, *arguments: object) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[object, ...]:
        return self.call


def _programs(canary: Path) -> list[object]:
    """Objects that no set of tensors has."""
    return [
        Canary(canary),
        [Canary(canary)],
        {"a": torch.zeros(1), "b": Canary(canary)},
        Call(os.system, f"touch {canary}"),
        Call(bytearray, 6_000_000_000),
        [Call(bytearray, 1_000_000_000)] * 3,
        Call(torch.Tensor, 2_000_000_000),
        Call(torch.Size, [2**40]),
        torch.zeros(1).expand(10**10),
        torch.zeros(10, 1, 1, 1).expand(10, 3, 4000, 4000),
        torch.sparse_coo_tensor(torch.tensor([[0]]), torch.tensor([1.0]), (10**12,)),
        torch.zeros(4, device="meta"),
        torch.full((10, 1, 8, 8), float("nan")),
        torch.zeros(10, 1, 8, 8, dtype=torch.complex64),
        torch.zeros(10, 1, 8, 8, dtype=torch.float8_e4m3fn),
        torch.zeros(0, 1, 8, 8),
        torch.quantize_per_tensor(torch.zeros(10, 1, 8, 8), 0.1, 0, torch.qint8),
        torch.nn.Linear(3, 3),
        [[[torch.zeros(2)] * 3] * 3] * 3,
        [[[]]],
        "text",
        10**4000,
    ]


def _program(path: Path, program: bytes) -> None:
    """A file of torch's whose description of its tensors is any program."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", program)
        archive.writestr("archive/version", b"3\n")


def _raw_programs() -> list[bytes]:
    """Programs that ask for memory or time, or that end nowhere."""
    return [
        b"\x80\x02" + b"(" * 60_000 + b".",
        b"\x80\x02" + b"(" * 16_000_000 + b".",
        b"\x80\x02" + b"]" * 16_000_000 + b".",
        b"\x80\x02" + b"]q\x00" + b"h\x00a" * 60_000 + b".",
        b"\x80\x02" + b"]" * 50_000 + b"a" * 49_999 + b".",
        b"\x80\x02]" + b"(2" * 20 + b"e.",
        b"\x80\x02c__builtin__\nbytearray\nK\x05\x85R.",
        b"\x80\x02cposix\nsystem\nX\x05\x00\x00\x00touch\x85R.",
        b"\x80\x02ctorch.storage\n_load_from_bytes\nC\x00\x85R.",
        b"\x80\x02X\xff\xff\xff\x7fabc.",
        b"\x80\x02\x8a\xff" + b"\xff" * 255 + b".",
        b"\x80\x02h\xff.",
        b"\x80\x02Q.",
        b"\x80\x02}(",
        b".",
        b"",
    ]


def _torch(place: Path, rng: random.Random, count: int) -> Iterator[Case]:
    network = Network(ddfw.load(OLD / "run").network())
    folder, buffer = Path(shutil.copytree(OLD / "exports" / "mtt", place / "mtt")), place / "replay_buffer_0.pt"
    (folder / "card.json").unlink()
    sealed = Path(shutil.copytree(OLD / "exports" / "mtt", place / "sealed"))
    whole = {p.name: p.read_bytes() for p in folder.iterdir()}
    path = folder / "images_best.pt"
    shapes = [torch.Size(shape) for shape in network.shapes]
    torch.save([[[torch.rand(shape) for shape in shapes] for _ in range(3)] for _ in range(2)], buffer)
    good = buffer.read_bytes()

    def readers() -> Readers:
        for name in whole:
            shutil.copy(folder / name, sealed / name)
        reseal(sealed)
        return [
            lambda: ddfw.read_images(folder),
            lambda: ddfw.read_images(path),
            lambda: ddfw.load(sealed),
            lambda: ReplayBuffer(buffer, network).expert(0),
        ]

    yield "torch files as it was", readers()
    objects: list[Callable[[Path], object]] = [
        lambda p, value=value: torch.save(value, p) for value in _programs(place / "canary")
    ]
    objects += [lambda p, program=program: _program(p, program) for program in _raw_programs()]
    objects += [
        lambda p: p.write_bytes(pickle.dumps(Canary(place / "canary"))),
        lambda p: torch.save(torch.rand(20, 1, 8, 8), p, _use_new_zipfile_serialization=False),
        lambda p: _deflated(p, good),
        lambda p: p.write_bytes(b"PK\x05\x06" + bytes(18)),
    ]
    for number in range(count):
        name = rng.choice([*whole, "images_best.pt"])
        if number < len(objects):
            objects[number](folder / name)
            objects[number](buffer)
        else:
            (folder / name).write_bytes(_damaged(whole[name], rng))
            buffer.write_bytes(_damaged(good, rng))
        yield f"torch file {number} in {name}", readers()
        for kept, content in whole.items():
            (folder / kept).write_bytes(content)


def _deflated(path: Path, good: bytes) -> None:
    """The members of a good file, compressed, which hides how much memory they take."""
    with zipfile.ZipFile(io.BytesIO(good)) as old, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new:
        for info in old.infolist():
            new.writestr(info.filename, old.read(info))


# --- pictures -----------------------------------------------------------------------------------------------------


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _png(width: int, height: int, data: bytes, depth: int = 8, colour: int = 0, more: bytes = b"") -> bytes:
    head = _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + more + _chunk(b"IDAT", data) + _chunk(b"IEND", b"")


def _zeros(size: int) -> bytes:
    packer = zlib.compressobj(9)
    return b"".join(packer.compress(bytes(1 << 20)) for _ in range(size >> 20)) + packer.flush()


def _saved(form: str, size: tuple[int, int], mode: str = "RGB", **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (*size, 3)).astype(np.uint8)).convert(mode).save(
        buffer, form, **options
    )
    return buffer.getvalue()


def _bombs() -> Iterator[bytes]:
    """Pictures that ask for far more than their bytes, or for other programs."""
    yield _png(8000, 8000, _zeros(64 << 20))
    yield _png(4000, 4000, _zeros(48 << 20), colour=2)
    yield _png(60_000, 60_000, b"")
    yield _png(2**31 - 1, 2**31 - 1, b"")
    yield _png(0, 0, b"")
    text = PngImagePlugin.PngInfo()
    text.add_text("a", "x" * 90_000_000, zip=True)
    yield _saved("PNG", (8, 8), pnginfo=text)
    yield b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n(canary) (w) file closefile\nshowpage\n%%EOF\n"
    yield b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>'
    yield b"push graphic-context\nimage over 0,0 0,0 'ephemeral:canary'\n"
    yield b"P5\n60000 60000\n255\n" + bytes(100)
    yield b"P3\n" + b"9" * 5000 + b" 8\n255\n1 2 3\n"
    yield b"BM" + struct.pack("<IHHIIiiHHIIiiII", 60, 0, 0, 54, 40, 30_000, 30_000, 1, 24, 0, 0, 0, 0, 0, 0)
    yield b"GIF89a" + struct.pack("<HHBBB", 65_535, 65_535, 0, 0, 0) + b"\x2c" + bytes(8) + b";"
    yield b"II*\x00\x08\x00\x00\x00\xff\xff" + b"\x00\x01\x04\x00\xff\xff\xff\xff\x00\x00\x00\x00" * 50


def _pictures(place: Path, rng: random.Random, count: int) -> Iterator[Case]:
    folder, export = place / "pictures", Path(shutil.copytree(OLD / "exports" / "imagefolder", place / "export"))
    whole = {form: _saved(form, (8, 8)) for form in ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM")}
    for label, number in itertools.product(("a", "b"), range(6)):
        (folder / label).mkdir(parents=True, exist_ok=True)
        (folder / label / f"{number}.png").write_bytes(whole["PNG"])
    one, sealed = folder / "b" / "3.png", export / "3-3" / "00007.png"
    readers: Readers = [
        lambda: ddfw.read_images(folder),
        lambda: ImageFolder(path=str(folder)).load(None).train,
        lambda: ImageFolder(path=str(folder), size=8).load(None).train,
        lambda: ddfw.load(export),
    ]

    def give(make: Callable[[Path], object]) -> Readers:
        for path in (one, sealed):
            path.unlink(missing_ok=True)
            make(path)
        reseal(export)
        return readers

    yield "pictures as it was", [*readers[:3], readers[3]]
    (place / "secret.txt").write_text("a secret")
    special: dict[str, Callable[[Path], object]] = {
        "a pipe": os.mkfifo,
        "a link to /dev/zero": lambda p: os.symlink("/dev/zero", p),
        "a link out": lambda p: os.symlink(place / "secret.txt", p),
        "a link to itself": lambda p: os.symlink(p, p),
        "a link up": lambda p: os.symlink("../../../../../../etc/passwd", p),
        "a terabyte of nothing": lambda p: (p.write_bytes(b""), os.truncate(p, 1 << 40)),
    }
    for name, make in special.items():
        for path in (one, sealed):
            path.unlink()
            make(path)
        yield f"a picture that is {name}", readers
    for number, content in enumerate(_bombs()):
        yield (
            f"picture bomb {number} of {len(content):,} bytes",
            give(lambda p, content=content: p.write_bytes(content)),
        )
    for number in range(count):
        content = _damaged(rng.choice(list(whole.values())), rng)
        yield f"picture {number}", give(lambda p, content=content: p.write_bytes(content))
    yield from _folders_of_bombs(place)


def _folders_of_bombs(place: Path) -> Iterator[Case]:
    """Each picture is modest; all of them together are not."""
    folder, data = place / "many", _png(2048, 2048, _zeros(5 << 20))
    for label, number in itertools.product(("a", "b"), range(60)):
        (folder / label).mkdir(parents=True, exist_ok=True)
        (folder / label / f"{number}.png").write_bytes(data)
    yield "many pictures", [lambda: ddfw.read_images(folder), lambda: ImageFolder(path=str(folder)).load(None).train]
    shutil.rmtree(folder)


# --- JSON ---------------------------------------------------------------------------------------------------------


def _texts() -> Iterator[bytes]:
    yield b'{"a":' * 100_000
    yield b'{"a":' * 900 + b"1" + b"}" * 900
    yield b"[" + b"[]," * 3_000_000 + b"1]"
    yield b'{"a":[' + b'"",' * 3_000_000 + b"1]}"
    yield b'{"a":[' + b"{}," * 3_000_000 + b"1]}"
    yield b'{"a":' + b"9" * 1_000_000 + b"}"
    yield b'{"a":1e999,"b":NaN}'
    yield b'{"a":1,"a":2}'
    yield b'{"a":"\\ud800"}'
    yield b" " * 1_000_000
    yield b"\xff\xfe{\x00}\x00"
    yield b"\x00" * 10_000_000


def _jsons(place: Path) -> Iterator[Case]:
    run = Path(shutil.copytree(OLD / "run", place / "run"))
    pictures = Path(shutil.copytree(OLD / "exports" / "imagefolder", place / "labelled"))
    (pictures / "card.json").unlink()
    card, labels = run / "synthetic" / "card.json", pictures / "labels.json"
    readers: Readers = [lambda: ddfw.load(run), lambda: ddfw.read_images(run), lambda: ddfw.read_images(pictures)]
    for number, content in enumerate(_texts()):
        card.write_bytes(content)
        labels.write_bytes(content)
        yield f"JSON {number} of {len(content):,} bytes", readers
    card.unlink()
    labels.unlink()
    for name, make in (
        ("a pipe", os.mkfifo),
        ("a link to /dev/zero", lambda p: os.symlink("/dev/zero", p)),
        ("a folder", os.mkdir),
        ("a terabyte of nothing", lambda p: (p.write_bytes(b""), os.truncate(p, 1 << 40))),
    ):
        for path in (card, labels):
            make(path)
        yield f"a card that is {name}", readers[:2] if "zero" in name or "pipe" in name else readers
        for path in (card, labels):
            path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()


def cases(place: Path, rng: random.Random, count: int) -> Iterator[Case]:
    """The cases: a fixed number of bombs of each kind, and random damage for the rest of the count."""
    each = max(6, (count - 60) // 3)
    for make in (_tars, _torch, _pictures):
        (place / make.__name__).mkdir()
        yield from make(place / make.__name__, rng, each)
    yield from _jsons(place)
