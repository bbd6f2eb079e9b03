"""What ddfw writes as TOML is what the standard library reads."""

from __future__ import annotations

import math
import tomllib

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ddfw.config.toml import parse_value, toml_text

SCALARS = st.one_of(
    st.text(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.integers(min_value=-(10**40), max_value=10**40),
)
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=4), max_leaves=6)
KEYS = st.one_of(
    st.text(max_size=8), st.sampled_from(["a", "lr-0", "a.b", "", '"', "'", "#", "=", "[x]", "\n", "é", " "])
)
TABLES = st.recursive(
    st.dictionaries(KEYS, VALUES, max_size=4),
    lambda inner: st.dictionaries(KEYS, st.one_of(VALUES, inner), max_size=4),
    max_leaves=12,
)


def same(a: object, b: object) -> bool:
    """Equality that tells True from 1 and 1 from 1.0, and takes NaN for equal to itself."""
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    if isinstance(a, float):
        return (math.isnan(a) and math.isnan(b)) or (a == b and math.copysign(1, a) == math.copysign(1, b))
    return a == b


@settings(deadline=None)
@given(tables=TABLES)
@example(tables={"a": {}, "b": {"c": {}}, "": {"": 1}})
@example(tables={"text": "\x00\x01\x07\x1f\x7f\x80\u2028\U0001f600\\ \" ' \r\n\t"})
@example(tables={"f": [1e-05, 1e16, 1e22, -0.0, 5e-324, 1.7976931348623157e308, 100.0, math.inf, -math.inf, math.nan]})
@example(tables={"n": [[], [1, "a", True, [2.5]], ""]})
def test_every_table_survives_writing_and_reading(tables):
    """Broken: a resolved configuration would not run again, or would run with other values."""
    text = toml_text(tables)
    assert same(tomllib.loads(text), tables)
    assert text.endswith("\n")


@settings(deadline=None)
@given(tables=TABLES, said=st.text(alphabet=st.characters(min_codepoint=0x20, exclude_characters="\x7f"), max_size=10))
def test_comments_change_nothing(tables, said):
    """Broken: `--print-config` would print a file that cannot be used as one."""
    assert same(tomllib.loads(toml_text(tables, lambda path: said)), tables)


def test_comments_are_asked_for_by_dotted_path_and_stand_behind_their_value():
    """Broken: the origins that `--print-config` shows would stand at other settings."""
    text = toml_text({"top": 1, "a": {"x": 2, "b": {"y": "s"}}}, lambda path: f"<{path}>")
    lines = {line.partition("  # ")[0]: line.partition("  # ")[2] for line in text.splitlines() if "#" in line}
    assert lines == {"top = 1": "<top>", "x = 2": "<a.x>", 'y = "s"': "<a.b.y>"}


@pytest.mark.parametrize("value", [None, {"a": None}, {"a": [{"b": 1}]}, {"a": object()}, {"a": b"x"}, {"a": 1j}])
def test_what_toml_cannot_hold_is_refused(value):
    """Broken: a setting would be written as something else, and silently change when it is read."""
    with pytest.raises(TypeError):
        toml_text({"table": value})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("3", 3),
        ("1e-3", 0.001),
        ("true", True),
        ("inf", math.inf),
        ("[1, 2]", [1, 2]),
        ('"3"', "3"),
        ("'a\\b'", "a\\b"),
        ("lss", "lss"),
        ("True", "True"),
        ("", ""),
        ("/data/my file.npz", "/data/my file.npz"),
        ("C:\\data", "C:\\data"),
        ("1.2.3", "1.2.3"),
        ("[1, 2", "[1, 2"),
        ("1\nb = 2", "1\nb = 2"),
        ("a = b", "a = b"),
        ('{name = "pixel", lr = 1.0}', {"name": "pixel", "lr": 1.0}),
    ],
)
def test_a_value_of_set_is_toml_where_it_is_toml_and_text_otherwise(text, expected):
    """Broken: `--set param.name=lss` would need quotes, or `--set outer.steps=3` would be text."""
    assert same(parse_value(text), expected)


@settings(deadline=None)
@given(text=st.text())
def test_no_text_makes_the_value_parser_fail(text):
    """Broken: a mistyped value would end as an internal error."""
    parse_value(text)


@pytest.mark.parametrize("text", ["9" * 5000, "[" * 5000], ids=["digits", "brackets"])
def test_what_the_toml_reader_chokes_on_is_text(text):
    """Broken: a value with thousands of digits or brackets would end as an internal error."""
    assert parse_value(text) == text


@settings(deadline=None)
@given(value=VALUES)
def test_a_written_value_is_parsed_back(value):
    """Broken: a value copied from config.toml to --set would mean something else."""
    line = toml_text({"v": value}).removeprefix("v = ").removesuffix("\n")
    assert same(parse_value(line), value)
