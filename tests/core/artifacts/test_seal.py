"""A sealed file: what passes, what does not, and what an earlier version wrote."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ddfw.artifacts import atomic, seal
from ddfw.errors import DataError

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8")),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(st.characters(codec="utf-8")), inner, max_size=3)
    ),
    max_leaves=8,
)


def read(path, since=2, newest=2):
    return seal.read_sealed(path, since=since, newest=newest)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return tmp_path_factory.mktemp("sealed") / "file.json"


@settings(max_examples=50, deadline=None)
@given(VALUES, st.data())
def test_every_changed_byte_of_a_sealed_file_is_found(path, value, data):
    """Broken: a figure could be changed, spelt otherwise or cut off without anybody's notice."""
    content = {"schema": 2, "value": value}
    seal.write_sealed(path, content)
    assert read(path) == content
    whole = path.read_bytes()
    where, bit = data.draw(st.integers(0, len(whole) - 1)), data.draw(st.integers(0, 7))
    path.write_bytes(whole[:where] + bytes([whole[where] ^ 1 << bit]) + whole[where + 1 :])
    with pytest.raises(DataError, match=r"file\.json"):
        read(path)
    path.write_bytes(whole[:where])
    with pytest.raises(DataError, match=r"file\.json"):
        read(path)


def test_a_number_of_the_same_value_in_other_digits_is_found(path):
    """Broken: "12 of 12 digit changes are found" would be eleven where the last digit is beyond a float's precision."""
    seal.write_sealed(path, {"schema": 2, "value": 0.30000000000000004})
    path.write_text(path.read_text().replace("0.30000000000000004", "0.30000000000000005"))
    assert json.loads(path.read_text())["value"] == 0.30000000000000004
    with pytest.raises(DataError, match="damaged or was edited"):
        read(path)


def test_a_seal_is_missed_where_there_has_to_be_one_and_nowhere_else(path):
    """Broken: who deletes the seal could edit the rest; or runs of version 0.1 could not be read."""
    atomic.write_json(path, {"schema": 1, "value": 3})
    assert read(path) == {"schema": 1, "value": 3}
    for content in ({"schema": 2, "value": 3}, {"value": 3}, {"schema": True}, {"schema": 0}):
        atomic.write_json(path, content)
        with pytest.raises(DataError, match="lost its seal"):
            read(path)
    atomic.write_json(path, {**seal.sealed({"schema": 2, "value": 3}), "schema": 1})
    with pytest.raises(DataError, match="does not fit its seal"):
        read(path)
    seal.write_sealed(path, {"schema": 3})
    with pytest.raises(DataError, match="schema 3, expected 2 at most"):
        read(path)


def test_keys_that_are_numbers_are_sealed_as_they_are_read(path):
    """Broken: a file would be called damaged right after it was written."""
    seal.write_sealed(path, {"schema": 2, "value": {10: 1, 9: 2}})
    assert read(path)["value"] == {"10": 1, "9": 2}


def test_a_part_of_a_file_is_checked_and_what_was_added_is_not(tmp_path):
    """Broken: the events of a run that goes on would be refused, or changed ones be accepted."""
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b"one\ntwo\n")
    part = seal.part_of(path)
    path.write_bytes(b"one\ntwo\nthree\n")
    seal.require_part(path, part, whole=False)
    with pytest.raises(DataError, match=r"metrics\.jsonl is damaged"):
        seal.require_part(path, part)
    for changed in (b"one\ntwO\nthree\n", b"one\ntwo", b""):
        path.write_bytes(changed)
        with pytest.raises(DataError, match=r"metrics\.jsonl is damaged"):
            seal.require_part(path, part, whole=False)
    path.unlink()
    with pytest.raises(DataError, match="is missing"):
        seal.require_part(path, part)
