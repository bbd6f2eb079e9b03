"""Which values two nested tables do not share."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ddfw.artifacts.differences import MISSING, Difference, differing, differing_texts

VALUES = st.one_of(st.integers(-2, 2), st.booleans(), st.sampled_from(["a", "b"]), st.lists(st.integers(0, 1)))
TABLES = st.recursive(
    st.dictionaries(st.sampled_from("abc"), VALUES, max_size=3),
    lambda inner: st.dictionaries(st.sampled_from("abc"), st.one_of(VALUES, inner), max_size=3),
    max_leaves=8,
)


@pytest.mark.parametrize(
    ("left", "right", "expected"),
    [
        ({"a": 1, "b": {"c": 2}}, {"a": 1, "b": {"c": 2}}, ()),
        ({"b": {"c": 2}}, {"b": {"c": 3}}, (Difference("b.c", 2, 3),)),
        ({"b": {"c": 2}}, {}, (Difference("b.c", 2, MISSING),)),
        ({}, {"x": {"y": {"z": []}}}, (Difference("x.y.z", MISSING, []),)),
        ({"a": True}, {"a": 1}, (Difference("a", True, 1),)),
        ({"a": 1}, {"a": 1.0}, ()),
    ],
)
def test_each_value_that_differs_stands_there_with_its_path(left, right, expected):
    """Broken: people would search two files for what they had changed."""
    assert differing(left, right) == expected


@given(TABLES, TABLES)
def test_a_table_differs_from_itself_in_nothing_and_from_another_the_same_both_ways(left, right):
    """Broken: an order or a nesting would hide or invent a difference."""
    assert differing(left, left) == ()
    there, back = differing(left, right), differing(right, left)
    assert {(d.path, repr(d.left), repr(d.right)) for d in there} == {
        (d.path, repr(d.right), repr(d.left)) for d in back
    }


def test_texts_are_compared_by_what_they_say():
    """Broken: a comment or an order of lines would be a difference."""
    assert differing_texts("[a]\nb = 1\nc = 2", "# other\n[a]\nc = 2\nb = 1") == ()
    assert differing_texts("[a]\nb = 1", "[a]\nb = 2") == (Difference("a.b", 1, 2),)
