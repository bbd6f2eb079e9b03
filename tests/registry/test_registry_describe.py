"""The option table: what help pages and documents say about a class is what its fields say."""

from __future__ import annotations

import enum
import json
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar, Literal

import attrs
import pytest
from attrs import validators as v

from ddfw_registry import OptionInfo, options


class Mode(enum.Enum):
    FAST = "fast"
    SAFE = "safe"


class Model(ABC):
    @abstractmethod
    def build(self): ...


@attrs.frozen
class Nested:
    name: ClassVar[str] = "nested"
    depth: int = 3


@attrs.frozen(kw_only=True)
class Everything:
    needed: int
    count: int = attrs.field(default=1, validator=v.ge(1), metadata={"help": "how many"})
    rate: float = attrs.field(default=0.5, validator=[v.ge(0), v.lt(1)])
    label: str = "x"
    flag: bool = False
    place: Path | None = Path("a")
    mode: Literal["own", "all"] = attrs.field(default="own", validator=v.in_(("own", "all")))
    only: Literal["one"] = "one"
    memory: int | Literal["auto"] = "auto"
    ranks: tuple[int, ...] | Literal["paper", "official"] = (1, 2)
    pair: tuple[int, int] = (1, 2)
    mixed: tuple[int, str] = (1, "a")
    sizes: tuple[int | Literal["auto"], ...] = ()
    nested_lists: list[list[float]] = attrs.field(factory=lambda: [[math.inf]])
    modes: list[Literal["own", "all"]] = attrs.field(factory=list)
    speed: Mode = Mode.FAST
    inner: Nested = Nested()
    many: Mapping[str, Nested] = attrs.field(factory=dict)
    model: Model | None = None
    derived: int = attrs.field(default=attrs.Factory(lambda self: self.count, takes_self=True))
    _private: int = 0
    computed: int = attrs.field(init=False, default=0)


BY_NAME = {option.name: option for option in options(Everything)}


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("count", "integer"),
        ("rate", "number"),
        ("label", "text"),
        ("flag", "true/false"),
        ("place", "path"),
        ("mode", "one of own, all"),
        ("only", "one"),
        ("memory", "integer or auto"),
        ("ranks", "list of integers, paper or official"),
        ("pair", "list of 2 integers"),
        ("mixed", "list of integer and text"),
        ("sizes", "list of (integer or auto)"),
        ("nested_lists", "list of lists of numbers"),
        ("modes", "list of values out of own, all"),
        ("speed", "one of fast, safe"),
        ("inner", "table"),
        ("many", "table of tables"),
        ("model", "component"),
    ],
)
def test_a_type_is_told_in_words(option, words):
    """Help pages would show Python annotations to people who write a config."""
    assert BY_NAME[option].type == words


def test_options_come_in_field_order_without_computed_ones():
    """Help would list what cannot be set, or shuffle what its author has ordered."""
    names = [option.name for option in options(Everything)]
    assert names[:3] == ["needed", "count", "rate"]
    assert names[-1] == "private"
    assert "computed" not in names
    assert options(Nested) == (OptionInfo("depth", "integer", False, 3, "", ""),)


def test_required_defaults_and_help_are_told():
    """People would not know what they have to give, and what happens if they do not."""
    assert BY_NAME["needed"].required
    assert BY_NAME["needed"].default is None
    assert not BY_NAME["count"].required
    assert (BY_NAME["count"].default, BY_NAME["count"].help) == (1, "how many")
    assert BY_NAME["many"].default == {}
    assert not BY_NAME["derived"].required
    assert BY_NAME["label"].help == ""


@pytest.mark.parametrize(
    ("validator", "words"),
    [
        (None, ""),
        (v.ge(1), ">= 1"),
        (v.lt(0.5), "< 0.5"),
        ([v.ge(0), v.lt(1)], "in [0, 1)"),
        (v.and_(v.gt(0), v.le(1)), "in (0, 1]"),
        ([v.ge(0), v.gt(0), v.ge(-1)], "> 0"),
        ([v.le(2), v.lt(2), v.lt(3)], "< 2"),
        (v.optional(v.ge(1)), ">= 1"),
        (v.optional([v.ge(1), v.le(3)]), "in [1, 3]"),
        (v.in_(("a", "b")), "one of a, b"),
        (v.in_(range(1, 10)), "in [1, 9]"),
        (v.deep_iterable(v.gt(0)), "each > 0"),
        (v.instance_of(int), ""),
        ([v.instance_of(int), v.ge(0)], ">= 0"),
    ],
)
def test_a_range_is_read_from_the_validators(validator, words):
    """The documented range and the enforced one would be two things."""
    cls = attrs.make_class("One", {"x": attrs.field(default=1, type=int, validator=validator)})
    assert options(cls)[0].range == words


def test_a_range_that_repeats_the_type_is_left_out():
    """Every choice would be listed twice."""
    assert BY_NAME["mode"].range == ""


def test_the_table_is_json_without_exceptions():
    """Schemas and documents are written from it; an infinite or structured default would break them."""
    table = {option.name: option.as_dict() for option in options(Everything)}
    again = json.loads(json.dumps(table, allow_nan=False))
    assert again == table
    assert again["ranks"]["default"] == [1, 2]
    assert again["place"]["default"] == "a"
    assert again["speed"]["default"] == "fast"
    assert again["inner"]["default"] == {"name": "nested", "depth": 3}
    assert again["nested_lists"]["default"] == [["inf"]]
    assert set(again["count"]) == {"name", "type", "required", "default", "range", "help"}


def test_a_default_that_json_cannot_hold_becomes_its_text():
    """One option for programmers would make the whole table unprintable."""
    cls = attrs.make_class("One", {"x": attrs.field(default=b"raw", type=bytes)})
    assert options(cls)[0].as_dict()["default"] == "b'raw'"
