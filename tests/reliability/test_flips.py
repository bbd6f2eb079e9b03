"""Every file that ddfw writes and reads again is damaged, and the command that reads it says which file it is."""

from __future__ import annotations

import re
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import attrs
import numpy as np
import pytest

import ddfw as package

SWEEP = """
[sweep]
trials = 2

[base]
data = "digits"
model = { depth = 2, width = 4 }
experts = { count = 2, epochs = 3 }
outer = { steps = 2, syn_steps = 2 }
window = { max_start = 1 }
param = { name = "lss", rank = 4 }
executor = { threads = 1 }
eval = { networks = 2, epochs = 2, every = 1, select_networks = 1, baselines = [] }
"""
SPACE = "[space]\nouter.step_size = { low = 0.01, high = 0.02 }\n"
VARIANTS = "[variants.pixels]\nparam = 'pixel'\n[variants.spaces]\nparam = { name = 'lss', rank = 4 }\n"
#: Files that hold no figures and nothing that is read again: locks, tables and pages for people.
PASSED_OVER = re.compile(r"\.lock|report\.html|.*\.md|.*\.journal\.lock")


@attrs.frozen
class Target:
    """A file, how its damage is called in the figures, and the command that reads it."""

    path: Path
    kind: str
    read: Callable[[], object]
    #: Left over by the command, removed afterwards.
    leftover: Path | None = None


@pytest.fixture(scope="module")
def targets(ddfw, tiny, tmp_path_factory) -> list[Target]:
    """Everything that ddfw writes and reads again, in one folder."""
    return list(_targets(ddfw, tiny, tmp_path_factory.mktemp("files")))


def _targets(ddfw, tiny, place) -> Iterator[Target]:
    experts, run, longer, stopped = (place / name for name in ("experts", "run", "longer", "stopped"))
    there = ["--experts-dir", experts]

    def ran(out: Path, *more: object) -> Callable[[], object]:
        return lambda: ddfw(*tiny, "--out", out, *there, *more)

    def extended() -> object:
        return ddfw("extend", run, "--steps", 9, *there)

    rows = ["eval", run, "--baseline", "full_data", "--baseline", "random_real", *there]
    for done in (
        ran(run)(),
        ddfw("eval", run, *there),
        ddfw(*rows),
        ran(longer)(),
        ddfw("extend", longer, "--steps", 5, *there),
    ):
        assert done.code == 0, done.err
    assert ran(stopped, "--max-time", "0.001")().code == 75
    yield from _files(run, "run", ran(run), but=("checkpoints/",))
    yield from _files(run / "checkpoints", "checkpoint of a finished run", extended)
    yield from _files(longer, "extended run", ran(longer, "--set=outer.steps=5"), but=("checkpoints/",))
    yield from _files(stopped, "unfinished run", ran(stopped))
    for store in experts.glob("digits-*"):
        yield from _files(store, "experts", ran(place / "fresh"), leftover=place / "fresh")
    read_rows = {path for path in (experts / "rows").iterdir() if _is_read(ddfw, path, rows)}
    assert read_rows
    for target in _files(experts / "rows", "cached rows", lambda: ddfw(*rows)):
        if target.path in read_rows:
            yield target
    for form, offer in package.formats().entries.items():
        if offer.item.writer:
            assert ddfw("export", run, "--format", form, "--out", place / form).code == 0
            yield from _files(place / form, f"export to {form}", lambda form=form: package.load(place / form))
    for name, text, words in (("study", SWEEP + SPACE, "sweep"), ("compared", "", "compare")):
        text = text or SWEEP.replace("[sweep]\ntrials = 2", "[comparison]\nseeds = [0]") + VARIANTS
        (place / f"{name}.toml").write_text(text)
        again = [words, place / f"{name}.toml", "--out", place / name, "--quiet", *there]
        assert (said := ddfw(*again)).code == 0, said.err
        yield from _files(place / name, words, lambda again=again: ddfw(*again), but=("/checkpoints/",))


def _is_read(ddfw, path: Path, command: list[object]) -> bool:
    """Whether a command reads a row of the cache: it says so where the row is damaged."""
    before = path.read_bytes()
    path.write_bytes(b"{")
    said = ddfw(*command)
    path.write_bytes(before)
    return path.name in said.err


def _files(
    folder: Path, kind: str, read: Callable[[], object], *, but: tuple[str, ...] = (), leftover: Path | None = None
) -> Iterator[Target]:
    for path in sorted(p for p in folder.rglob("*") if p.is_file() and not PASSED_OVER.fullmatch(p.name)):
        if not any(part in str(path.relative_to(folder.parent)) for part in but):
            yield Target(path, kind, read, leftover)


def _damaged(data: bytes, how: str, rng: np.random.Generator) -> bytes:
    """The bytes of a file after one bit was turned, one decimal digit was changed, or the end was cut off."""
    if how == "truncation":
        return data[: rng.integers(len(data))]
    if how == "digit":
        places = [match.start() for match in re.finditer(rb"\d", data)]
        where = places[rng.integers(len(places))]
        digit = (data[where] - ord("0") + rng.integers(1, 10)) % 10
        return data[:where] + str(digit).encode() + data[where + 1 :]
    where = rng.integers(len(data))
    return data[:where] + bytes([data[where] ^ 1 << int(rng.integers(8))]) + data[where + 1 :]


def _said(read: Callable[[], object]) -> str:
    """What a command said of damage; "" if it did not refuse and did not warn."""
    try:
        said = read()
    except package.DataError as error:
        return str(error)
    err = getattr(said, "err", "")
    return err if getattr(said, "code", 0) or "warning" in err else ""


@pytest.mark.extended
def test_every_damage_is_found_with_the_name_of_its_file(targets, size, figures):
    """Broken: a figure that a disk or somebody changed would be printed as if it had been measured."""
    rng, began = np.random.default_rng(14), time.monotonic()
    missed, done = [], Counter()
    count = size(12, 1000)
    order = [targets[i] for _ in range(-(-count // len(targets))) for i in rng.permutation(len(targets))]
    for target in order[:count]:
        before = target.path.read_bytes()
        text = target.path.suffix in (".json", ".jsonl", ".toml", ".journal")
        how = ("flip", "truncation", "digit")[rng.integers(3 if text else 2)]
        after = _damaged(before, how, rng)
        target.path.unlink()  # the copies that an extended run keeps are other names of the same file
        target.path.write_bytes(after)
        said = _said(target.read)
        target.path.unlink(missing_ok=True)
        target.path.write_bytes(before)
        if target.leftover is not None:
            shutil.rmtree(target.leftover, ignore_errors=True)
        done[how] += 1
        place = "/".join(target.path.parts[-2:])
        if place not in said:
            where = next((i for i, (a, b) in enumerate(zip(before, after, strict=False)) if a != b), len(after))
            missed.append((target.kind, place, how, before[max(0, where - 20) : where + 20], said[:300]))
    kinds = Counter(target.kind for target in order[:count])
    seconds = round(time.monotonic() - began, 1)
    figures(damages=count, found=count - len(missed), **done, files=len(targets), kinds=dict(kinds), seconds=seconds)
    assert not missed, missed[:5]
