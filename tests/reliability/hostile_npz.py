"""Hostile NumPy archives, given to the data set `npz` and, sealed again, to the format `npz`."""

from __future__ import annotations

import io
import json
import os
import pickle
import random
import shutil
import struct
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from hostile_headers import OLD, reseal

import ddfw
from ddfw_plugins.datasets.npz import Npz

NAMES = ("train_images", "train_labels", "test_images", "test_labels")


class Canary:
    """Unpickling it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (Path(self.path),))


def npy(array: np.ndarray) -> bytes:
    """An array as the member of an archive."""
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, array, allow_pickle=True)
    return buffer.getvalue()


def header(text: str, data: bytes = b"", version: tuple[int, int] = (1, 0)) -> bytes:
    """A member whose header is any text."""
    coded = text.encode("latin-1", "replace") + b"\n"
    length = struct.pack("<H", len(coded) % 65536) if version == (1, 0) else struct.pack("<I", len(coded))
    return b"\x93NUMPY" + bytes(version) + length + coded + data


def _members() -> dict[str, bytes]:
    """Whole members of a small data set and of an export."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (12, 4, 5)).astype(np.uint8)
    labels = np.arange(12) % 3
    arrays = dict(zip(NAMES, (pixels, labels, pixels[:6], labels[:6]), strict=True))
    with np.load(OLD / "exports" / "npz" / "set.npz") as archive:
        arrays |= {key: archive[key] for key in archive.files}
    return {f"{name}.npy": npy(array) for name, array in arrays.items()}


def _odd_member(rng: random.Random, canary: Path, whole: bytes) -> bytes:
    """Something in place of an array."""
    shape = rng.choice(
        ["(12, 4, 5)", "(10**9,)", "(2**62, 4)", "(-3, 4)", "(4.0,)", "()", "(True,)", "12", "(1,) * 99", "None"]
    )
    descr = rng.choice(
        ["'|u1'", "'<f4'", "'|O'", "'<U999999999'", "'<V9'", "[('a', '<f4')]", "'>f8'", "'<c8'", "'<M8[s]'", "'?'", "3"]
    )
    text = f"{{'descr': {descr}, 'fortran_order': {rng.choice(['False', 'True', '3'])}, 'shape': {shape}, }}"
    with_nan = np.full((12, 4, 5), rng.choice([np.nan, np.inf, -1.0, 1e30, 2.0]))
    return rng.choice(
        [
            header(text, bytes(rng.choice([0, 240, 960]))),
            header(text, bytes(240), (2, 0)),
            header("(" * 9000, b"", (2, 0)),
            header("__import__('pathlib').Path('canary').touch()"),
            header("x" * 60_000),
            npy(np.array([Canary(canary)], dtype=object)),
            pickle.dumps(Canary(canary)),
            npy(with_nan),
            npy(np.zeros((0, 4, 5), np.uint8)),
            npy(np.float32(3)),
            b"no array at all",
            b"",
            whole[: rng.randrange(len(whole))],
            whole + b"more",
            json.dumps({"a": 1}).encode(),
        ]
    )


def _damaged(data: bytes, rng: random.Random) -> bytes:
    """An archive with changed bytes, cut, or with rubbish before or behind it."""
    match rng.randrange(4):
        case 0:
            return data[: rng.randrange(len(data))]
        case 1:
            return bytes(rng.randrange(1, 50)) + data
        case 2:
            return data + bytes(rng.randrange(1, 50))
    changed = bytearray(data)
    near = rng.choice([0, len(data) - 400])  # headers of members, or the archive's directory
    for _ in range(rng.choice([1, 1, 4, 30])):
        changed[near + rng.randrange(min(400, len(data) - near))] = rng.randrange(256)
    return bytes(changed)


def archive_of(members: dict[str, bytes], how: int = zipfile.ZIP_STORED) -> bytes:
    """An archive with these members."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", how) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def bomb(path: Path, name: str, gigabytes: float) -> None:
    """Writes an archive of a few megabytes whose one member unpacks to some gigabytes of zeros."""
    count = int(gigabytes * 1e9) // 20
    info = zipfile.ZipInfo(name)
    info.compress_type, info._compresslevel = zipfile.ZIP_DEFLATED, 1
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        with archive.open(info, "w", force_zip64=True) as member:
            member.write(header(f"{{'descr': '|u1', 'fortran_order': False, 'shape': ({count}, 4, 5), }}"))
            for _ in range(count // 50_000):
                member.write(bytes(1_000_000))
            member.write(bytes(20 * (count % 50_000)))
        for other, content in _members().items():
            if other != name:
                archive.writestr(other, content)


def _many(names: int) -> bytes:
    """An archive of very many empty members."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for number in range(names):
            archive.writestr(f"{number:0200d}", b"")
    return buffer.getvalue()


def cases(place: Path, rng: random.Random, count: int) -> Iterator[tuple[str, list[Callable[[], object]]]]:
    """The cases: mutated members, damaged archives, bombs, and things that are no plain files."""
    data, export = place / "data.npz", Path(shutil.copytree(OLD / "exports" / "npz", place / "export"))
    members = _members()
    readers: list[Callable[[], object]] = [
        lambda: Npz(path=str(data)).load(None).train,
        lambda: ddfw.load(export),
        lambda: ddfw.read_images(export),
    ]

    def give(content: bytes) -> list[Callable[[], object]]:
        data.unlink(missing_ok=True)
        data.write_bytes(content)
        (export / "set.npz").unlink(missing_ok=True)
        shutil.copy(data, export / "set.npz")
        reseal(export)
        return readers

    yield "the archive as it was", give(archive_of(members))
    yield "it is a single array", give(npy(np.zeros(3)))
    yield "very many members", give(_many(2000 if count < 500 else 60_000))
    for name in ("train_images.npy", "images.npy"):
        bomb(data, name, 0.1 if count < 500 else 6.0)
        shutil.copy(data, export / "set.npz")
        reseal(export)
        yield f"a bomb in {name}, {data.stat().st_size:,} bytes", readers
    for kind, make in (
        ("a pipe", os.mkfifo),
        ("a link to /dev/zero", lambda p: os.symlink("/dev/zero", p)),
        ("a folder", os.mkdir),
    ):
        for path in (data, export / "set.npz"):
            path.unlink(missing_ok=True)
            make(path)
        yield kind, readers
        for path in (data, export / "set.npz"):
            path.rmdir() if path.is_dir() else path.unlink()
    with data.open("wb") as file:
        file.truncate(1 << 40)
    os.symlink(data, export / "set.npz")
    yield "a terabyte of nothing", readers
    for number in range(count - 9):
        changed, damaged = dict(members), rng.random() < 0.4
        if not damaged or rng.random() < 0.3:
            for name in (rng.choice(NAMES), rng.choice(["images", "targets"])):
                changed[f"{name}.npy"] = _odd_member(rng, place / "canary", members[f"{name}.npy"])
        if rng.random() < 0.1:
            changed[rng.choice(["../canary.npy", os.path.abspath("canary.npy"), "train_images", "x" * 300])] = b"1"
        how = rng.choice([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2])
        content = archive_of(changed, how)
        yield f"archive {number}", give(_damaged(content, rng) if damaged else content)
