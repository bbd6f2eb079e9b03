"""Mutated safetensors headers of sets, exports, experts, snapshots and checkpoints, with hashes that fit them."""

from __future__ import annotations

import copy
import hashlib
import json
import random
import shutil
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from attrs import evolve

import ddfw
from ddfw.artifacts.checkpoint import latest, read_checkpoint, write_checkpoint
from ddfw.artifacts.expert_store import ExpertStore, list_stores
from ddfw.artifacts.snapshots import Snapshot, read_snapshot, write_snapshot
from ddfw.artifacts.synthetic import read_learned, sealed_card
from ddfw.contracts.space import WhitenedSpace
from ddfw.contracts.trajectory import CompactExpert
from ddfw.engine.inner import Network

OLD = Path(__file__).parents[1] / "fixtures" / "v0_1"
#: Values in place of numbers, names and lists of a header.
ODD: list[Any] = [
    *(0, 1, -1, 7, 2**31, 2**32, 2**53 + 1, 2**63 - 1, 2**63, 2**64, 10**30, 10**400, -(2**63), 0.5, 1e308, True, None),
    *("", "F32", "F64", "F16", "BF16", "I64", "BOOL", "F8_E4M3", "C64", "f32", "\u202e", "a\nb", "x" * 9000, "\x00"),
    *([], {}, [0], [0, 0], [1] * 40, [2**40, 2**40], [0, 2**62, 2**62], [[1]], {"a": 1}, [None], [-1, -1], ["1"]),
]


def sha256(path: Path) -> str:
    """The hash of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def reseal(folder: Path) -> None:
    """Gives a card the hashes of the files beside it, as an attacker would."""
    card = json.loads((folder / "card.json").read_text())
    card["sha256"] = {
        name: sha256(folder / name) if (folder / name).is_file() else h for name, h in card["sha256"].items()
    }
    card.pop("card_sha256")
    (folder / "card.json").write_text(json.dumps(sealed_card(card)))


def _paths(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths of everything inside a JSON value."""
    found = [path]
    if isinstance(value, dict | list):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            found += _paths(item, (*path, key))
    return found


def _changed(value: Any, rng: random.Random) -> Any:
    """A JSON value in which one thing was replaced, removed, renamed or added."""
    value = copy.deepcopy(value)
    path = rng.choice(_paths(value))
    if not path:
        return copy.deepcopy(rng.choice(ODD))
    place = value
    for key in path[:-1]:
        place = place[key]
    last = path[-1]
    how = rng.random()
    if how < 0.6:
        here = place[last]
        near = [here + 1, here - 1, here * 2, here * 1000, -here] if type(here) is int else []
        place[last] = rng.choice([*near, *near, copy.deepcopy(rng.choice(ODD)), copy.deepcopy(rng.choice(ODD))])
    elif how < 0.75:
        del place[last]
    elif how < 0.9 and isinstance(place, dict):
        place[rng.choice(["images", "targets", "snapshots", "mean", "", "__metadata__", "é", "x" * 500])] = place.pop(
            last
        )
    elif isinstance(place, dict):
        place[rng.choice(["more", "__metadata__", "zz"])] = copy.deepcopy(rng.choice([*place.values(), *ODD]))
    else:
        place.append(copy.deepcopy(rng.choice(ODD)))
    return value


def _text(header: bytes, rng: random.Random) -> bytes:
    """A header whose text was damaged."""
    at = rng.randrange(len(header))
    match rng.randrange(8):
        case 0:
            return header[:at]
        case 1:
            return header[:at] + bytes([rng.randrange(256)]) + header[at + 1 :]
        case 2:
            return (
                header[:at]
                + rng.choice([b"[", b"{", b'"', b",", b"9" * 5000, b"\\ud800", b"\xff", b"NaN"])
                + header[at:]
            )
        case 3:
            depth = rng.choice([100, 5000, 100_000])
            return b'{"a":' * depth + b"1" + b"}" * depth
        case 4:
            return header[:-1] + b"," + header[1:-1] + b"}"  # every key twice
        case 5:
            return b"[" + b"[]," * rng.choice([10, 1_000_000]) + b"1]"
        case 6:
            return bytes(rng.randrange(256) for _ in range(rng.randrange(1, 300)))
        case _:
            return header + bytes(rng.choice([b" ", b"}", b"\x00"])) * rng.randrange(1, 5000)


def mutated(whole: bytes, rng: random.Random) -> bytes:
    """A safetensors file with a mutated header, or with a damaged length, or values that are no numbers."""
    (length,) = struct.unpack("<Q", whole[:8])
    header, data = whole[8 : 8 + length], whole[8 + length :]
    how = rng.random()
    if how < 0.55:
        table = json.loads(header)
        for _ in range(rng.choice([1, 1, 1, 2, 4])):
            if isinstance(table, dict):
                table = _changed(table, rng)
        header = json.dumps(table).encode("utf-8", "surrogatepass")
    elif how < 0.75:
        header = _text(header, rng)
    elif how < 0.85:  # what is written with the tensors
        table = json.loads(header)
        facts = _changed(json.loads(table["__metadata__"]["ddfw"]), rng)
        table["__metadata__"]["ddfw"] = json.dumps(facts)
        header = json.dumps(table).encode()
    elif how < 0.93:
        word = struct.pack("<f", rng.choice([float("nan"), float("inf"), -float("inf"), 3e38, -1.0, 1e20]))
        at = 4 * rng.randrange(max(1, len(data) // 4))
        data = data[:at] + word + data[at + 4 :]
    else:
        data = rng.choice([data[: rng.randrange(len(data) + 1)], data + bytes(rng.randrange(1, 99)), b""])
    said = (
        len(header)
        if rng.random() < 0.95
        else rng.choice([0, 1, 2, len(header) - 1, len(header) + 1, 2**31, 2**63, 2**64 - 1])
    )
    return struct.pack("<Q", said) + header + data


def _whitened(place: Path) -> Path:
    """An export whose training space has matrices."""
    learned = ddfw.load(OLD / "run")
    pixels = learned.space.decode(learned.images).clamp(0, 1)
    space = WhitenedSpace.fit(pixels, 1.0, 0.1)
    images = space.encode(pixels, torch.float32)
    card = {**learned.card, "training_space": space.record()}
    ddfw.export(evolve(learned, images=images, space=space, card=card), "safetensors", place)
    return place


def _stores(place: Path, network: Network) -> Iterator[tuple[Path, Callable[[], None], list[Callable[[], object]]]]:
    """A store of checkpoints and one of way-points: their files, how to seal them again, and their readers."""
    shutil.copytree(OLD / "experts", place / "experts")
    compact = ExpertStore(place / "experts", {"data": "toy", "form": {"name": "mct"}}, "toy-net")
    rows = torch.rand(2, network.num_parameters)
    expert = CompactExpert(source="mct", options={}, num_epochs=3, tensors={"points": rows}, rows={0: 0, 3: 1})
    compact.add_compact(0, expert, network)
    for index in sorted((place / "experts").glob("*/index.json")):
        path = index.parent / "expert-0.safetensors"

        def seal(index: Path = index, path: Path = path) -> None:
            table = json.loads(index.read_text())
            table["experts"]["0"]["sha256"] = sha256(path)
            index.write_text(json.dumps(table))

        def read(index: Path = index) -> object:
            store = ExpertStore.named(index.parent.parent, index.parent.name)
            source = store.source([0], network, torch.device("cpu"), torch.float32)
            kept = source.compact(0)
            if kept is not None:
                return [*kept.tensors.values(), source.snapshots(0, list(kept.rows))]
            return [source.snapshots(0, range(source.num_epochs + 1))]

        yield path, seal, [read, lambda index=index: list_stores(index.parent.parent)]


def _subjects(place: Path) -> list[tuple[Path, Callable[[], None], list[Callable[[], object]]]]:
    """Every kind of safetensors file: the file, how to seal it again, and its readers."""
    found: list[tuple[Path, Callable[[], None], list[Callable[[], object]]]] = []
    run = Path(shutil.copytree(OLD / "run", place / "run"))
    for name in ("images", "labels", "params"):
        readers = (
            [lambda: ddfw.load(run), lambda: read_learned(run)[0]] if name != "params" else [lambda: _learned(run)]
        )
        found.append((run / "synthetic" / f"{name}.safetensors", lambda: reseal(run / "synthetic"), readers))
    export = Path(shutil.copytree(OLD / "exports" / "safetensors", place / "export"))
    found.append(
        (
            export / "set.safetensors",
            lambda: reseal(export),
            [lambda: ddfw.load(export), lambda: ddfw.read_images(export)],
        )
    )
    white = _whitened(place / "white")
    found.append((white / "space.safetensors", lambda: reseal(white), [lambda: ddfw.load(white)]))
    network = Network(ddfw.load(OLD / "run").network())
    found += list(_stores(place, network))
    pixels, targets = torch.rand(10, 1, 4, 4), torch.eye(10)
    write_snapshot(run, Snapshot(pixels=pixels, targets=targets, per_class=1, of_per_class=1, step=3))
    found.append((run / "steps" / "step-000003.safetensors", lambda: None, [lambda: read_snapshot(run, 3)]))
    folder = place / "checkpoints"
    write_checkpoint(folder, 4, {"a": torch.rand(4, 3).T, "b": torch.arange(5)}, {"history": [1, 2.5, {"x": "y"}]})
    found.append(
        (
            folder / "step-000004.safetensors",
            lambda: _point(folder),
            [lambda: dict(read_checkpoint(folder, latest(folder)).record)],
        )
    )
    return found


def _learned(run: Path) -> list[torch.Tensor]:
    params, labels = read_learned(run)
    return [*params.values(), *labels.values()]


def _point(folder: Path) -> None:
    table = json.loads((folder / "latest.json").read_text())
    (folder / "latest.json").write_text(json.dumps({**table, "sha256": sha256(folder / table["file"])}))


def cases(place: Path, rng: random.Random, count: int) -> Iterator[tuple[str, list[Callable[[], object]]]]:
    """The cases, one mutated file each; the file is whole again after its case."""
    subjects = _subjects(place)
    for path, _, readers in subjects:
        yield f"{path.name} as it was", readers  # what reading it loads is loaded before memory is measured
    for number in range(count - len(subjects)):
        path, seal, readers = subjects[number % len(subjects)]
        whole = path.read_bytes()
        path.write_bytes(mutated(whole, rng))
        seal()
        yield f"header {number} of {path.name}", readers
        path.write_bytes(whole)
