"""Rows of baselines on disk: found by their key, sealed, listed and cleared."""

from __future__ import annotations

import json

import pytest

from ddfw.artifacts.row_cache import CachedRow, clear_rows, list_rows, read_row, row_path, write_row

KEY = {"data": "abc", "training": {"lr": 0.1, "rates": [0.01, 0.1]}}
ROW = CachedRow(accuracies=(0.5, 0.1 + 0.2), lr=0.1, selected_by="validation", run="/runs/one")
ABOUT = {"subject": "random_real", "data": "digits", "network": "convnet"}


def test_a_row_comes_back_bit_for_bit_and_under_its_key_alone(tmp_path):
    """Broken: a run would show figures of other conditions, or other figures."""
    assert read_row(tmp_path, KEY) is None
    write_row(tmp_path, KEY, ROW, ABOUT)
    assert read_row(tmp_path, KEY) == ROW
    assert read_row(tmp_path, {**KEY, "data": "xyz"}) is None
    assert read_row(tmp_path, {**KEY, "training": {"lr": 0.1, "rates": [0.1, 0.01]}}) is None


def test_a_file_under_the_name_of_another_key_is_no_answer(tmp_path):
    """Broken: a renamed file would give the figures of other data."""
    write_row(tmp_path, KEY, ROW, ABOUT)
    other = {**KEY, "data": "xyz"}
    row_path(tmp_path, KEY).rename(row_path(tmp_path, other))
    assert read_row(tmp_path, other) is None


@pytest.mark.parametrize("place", range(0, 600, 37))
def test_a_damaged_row_is_measured_again_and_the_file_is_named(tmp_path, place, caplog):
    """Broken: a flipped digit would stand in every later table."""
    write_row(tmp_path, KEY, ROW, ABOUT)
    path = row_path(tmp_path, KEY)
    data = bytearray(path.read_bytes())
    data[place % len(data)] ^= 1
    path.write_bytes(bytes(data))
    found = read_row(tmp_path, KEY)
    assert found is None or json.loads(bytes(data)) == json.loads(_whole(tmp_path)), "only white space may be changed"
    if found is None:
        assert str(path) in caplog.text
    assert [file.row is None for file in list_rows(tmp_path)] == [found is None]
    write_row(tmp_path, KEY, ROW, ABOUT)
    assert read_row(tmp_path, KEY) == ROW


def _whole(folder):
    """The file as it was written."""
    write_row(folder / "again", KEY, ROW, ABOUT)
    written = json.loads(row_path(folder / "again", KEY).read_text())
    damaged = json.loads(row_path(folder, KEY).read_text())
    return json.dumps({**written, "written": damaged["written"], "sha256": damaged["sha256"]})


def test_rows_are_listed_the_newest_first_and_cleared(tmp_path, monkeypatch):
    """Broken: nobody could see what stands behind a row, or get rid of it."""
    for second in (1, 3, 2):
        monkeypatch.setattr("ddfw.artifacts.row_cache.time.time", lambda second=second: float(second))
        write_row(tmp_path, {"number": second}, ROW, ABOUT)
    (tmp_path / "rows" / "mine.txt").write_text("kept")
    (tmp_path / "digits-store").mkdir()
    assert [file.written for file in list_rows(tmp_path)] == [3, 2, 1]
    assert {tuple(file.about.items()) for file in list_rows(tmp_path)} == {tuple(ABOUT.items())}
    assert clear_rows(tmp_path) == 3 and list_rows(tmp_path) == []
    assert (tmp_path / "rows" / "mine.txt").exists() and (tmp_path / "digits-store").exists()
    assert clear_rows(tmp_path / "nothing") == 0
