"""What all exports have in common: they are written whole or not at all, and no file of the user's is touched."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import torch

import ddfw
from ddfw import DirectoryInUseError, PluginError
from ddfw.artifacts import atomic
from ddfw.artifacts.exports import read_with_card, write_export
from ddfw.artifacts.synthetic import read_card

RUN = Path(__file__).parents[2] / "fixtures" / "v0_1" / "run"


@pytest.fixture(scope="module")
def learned():
    """A tiny learned set."""
    return ddfw.load(RUN)


def two_files(learned, folder):
    """A writer of a format of its own."""
    (folder / "deep").mkdir()
    (folder / "deep" / "images.bin").write_bytes(learned.images.numpy().tobytes())
    (folder / "a.txt").write_text("text")
    return {"words": 2}


def read_two_files(folder, card):
    """Its reader."""
    images = torch.frombuffer(bytearray((folder / "deep" / "images.bin").read_bytes()), dtype=torch.float32)
    return ddfw.ImageSet(images=images.view(20, 1, 8, 8), targets=torch.arange(20) // 2)


def test_the_card_holds_the_hash_of_every_file_and_what_the_writer_returned(learned, tmp_path):
    """Broken: damage in a file that a third party's format writes would go unnoticed."""
    card = write_export(learned, "two", two_files, tmp_path / "set")
    hashes = {name: hashlib.sha256((tmp_path / "set" / name).read_bytes()).hexdigest() for name in card["sha256"]}
    assert card["sha256"] == hashes and set(hashes) == {"a.txt", "deep/images.bin"}
    assert card["export"] == {"words": 2, "dtype": "float32"} and card["format"] == "two"
    assert read_card(tmp_path / "set") == json.loads((tmp_path / "set" / "card.json").read_text()) == card
    assert torch.equal(read_with_card(tmp_path / "set", card, read_two_files).images, learned.images)


def test_a_reader_sees_no_file_that_fails_its_hash(learned, tmp_path):
    """Broken: every third party would have to verify files, and some would not."""
    card = write_export(learned, "two", two_files, tmp_path / "set")
    (tmp_path / "set" / "a.txt").write_text("tent")
    with pytest.raises(ddfw.DataError, match=r"a\.txt is damaged"):
        read_with_card(tmp_path / "set", card, lambda folder, card: pytest.fail("the reader was called"))


@pytest.mark.parametrize(
    ("files", "facts"),
    [((), {}), (("card.json",), {}), (("space.safetensors", "x"), {}), (("x",), None), (("x",), ["facts"])],
    ids=["nothing", "a card", "a space", "no facts", "a list of facts"],
)
def test_a_writer_that_breaks_its_word_is_named_and_leaves_nothing(learned, tmp_path, files, facts):
    """Broken: an export without files, or with a card of the plugin's own, would look whole."""

    def write(learned, folder):
        for name in files:
            (folder / name).write_text("mine")
        return facts

    with pytest.raises(PluginError, match="the format two wrote"):
        write_export(learned, "two", write, tmp_path / "set")
    assert list(tmp_path.iterdir()) == []


def test_a_writer_that_fails_after_its_first_file_leaves_nothing(learned, tmp_path):
    """Broken: half an export would look like a whole one."""

    def write(learned, folder):
        (folder / "first").write_text("whole")
        raise OSError(28, "No space left on device", "somewhere")

    with pytest.raises(OSError, match="No space left"):
        write_export(learned, "two", write, tmp_path / "new" / "set")
    assert list(tmp_path.iterdir()) == []


def test_an_interrupt_leaves_nothing_behind(learned, tmp_path, monkeypatch):
    """Broken: Ctrl-C would leave a draft, or folders that were made on the way to it."""

    def interrupted(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(atomic, "write_json", interrupted)
    for out in (tmp_path / "set", tmp_path / "new" / "set"):
        with pytest.raises(KeyboardInterrupt):
            write_export(learned, "two", two_files, out)
        assert list(tmp_path.iterdir()) == []


def test_a_hidden_neighbour_is_nobodys_draft(learned, tmp_path):
    """Broken: a folder of the user's that has the name of a draft would be deleted, or two exports share one draft."""
    (tmp_path / ".set.tmp").mkdir()
    (tmp_path / ".set.tmp" / "mine.txt").write_text("mine")
    write_export(learned, "two", two_files, tmp_path / "set")
    assert (tmp_path / ".set.tmp" / "mine.txt").read_text() == "mine"


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_an_export_is_replaced_only_when_asked_for(learned, tmp_path):
    """Broken: a second export would overwrite the first one, or could not be made without removing it by hand."""
    out = tmp_path / "set"
    write_export(learned, "two", two_files, out)
    before = contents(out)
    with pytest.raises(DirectoryInUseError, match="--force"):
        write_export(learned, "other", two_files, out)
    assert contents(out) == before
    card = write_export(learned, "other", two_files, out, force=True)
    assert read_card(out) == card and card["format"] == "other" and list(tmp_path.iterdir()) == [out]


def _with_a_stranger(out: Path) -> None:
    (out / "deep" / "mine.txt").write_text("mine")


def _without_card(out: Path) -> None:
    (out / "card.json").unlink()


def _with_card_of_a_run(out: Path) -> None:
    (out / "card.json").write_bytes((RUN / "synthetic" / "card.json").read_bytes())


def _with_garbled_card(out: Path) -> None:
    (out / "card.json").write_text("[1]")


def _as_link(out: Path) -> None:
    out.rename(out.with_name("elsewhere"))
    out.symlink_to(out.with_name("elsewhere"))


@pytest.mark.parametrize("change", [_with_a_stranger, _without_card, _with_card_of_a_run, _with_garbled_card, _as_link])
def test_nothing_but_an_export_is_replaced(learned, tmp_path, change):
    """Broken: `--force` would delete files that ddfw did not write."""
    out = tmp_path / "set"
    write_export(learned, "two", two_files, out)
    change(out)
    before = contents(tmp_path)
    with pytest.raises(DirectoryInUseError, match="another --out"):
        write_export(learned, "two", two_files, out, force=True)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("fails", ["writer", "move"])
def test_an_export_that_cannot_be_replaced_stays_whole(learned, tmp_path, monkeypatch, fails):
    """Broken: a full disk would leave neither the old export nor the new one."""
    out = tmp_path / "set"
    write_export(learned, "two", two_files, out)
    before = contents(tmp_path)

    def write(learned, folder):
        if fails == "writer":
            raise OSError(28, "No space left on device", "somewhere")
        return two_files(learned, folder)

    whole, moved = Path.replace, []

    def replace(self, target):
        moved.append(target)
        if (
            moved.index(target) == 1 and moved.count(target) == 1
        ):  # the new one to its place; then the old one goes back
            raise OSError(5, "Input/output error", str(self))
        return whole(self, target)

    if fails == "move":
        monkeypatch.setattr(Path, "replace", replace)
    with pytest.raises(OSError, match=r"No space|Input/output"):
        write_export(learned, "two", write, out, force=True)
    assert contents(tmp_path) == before
