"""Files that users write, as objects of attrs classes."""

from __future__ import annotations

import pytest
from attrs import field, frozen
from attrs.validators import ge

from ddfw import AbstractLabels, ConfigError, OptionError, structured


@frozen(kw_only=True)
class Head:
    low: int = field(default=0, validator=ge(0))
    high: int = 9

    def __attrs_post_init__(self):
        if self.low > self.high:
            raise OptionError("is below low", "high")


@frozen(kw_only=True)
class File:
    head: Head
    labels: AbstractLabels


GOOD = '[head]\nlow = 3\n[labels]\nname = "hard"\n'


def test_a_file_becomes_an_object_with_its_components():
    """Broken: a plugin's own file would have to be taken apart by hand."""
    made = structured(GOOD, File, "mine.toml")
    assert made.head == Head(low=3) and made.labels.name == "hard"


def test_tables_that_were_read_already_are_taken_too():
    """Broken: a part of a file could not be read by a class of its own."""
    assert structured({"low": 1, "high": 2}, Head, "variants.a") == Head(low=1, high=2)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[head", ["mine.toml: not a readable TOML file"]),
        (GOOD.replace("low", "lwo"), ["head.lwo: unknown option 'lwo'. Did you mean 'low'?"]),
        (
            GOOD.replace("low = 3", "low = -1\nhigh = 'x'"),
            ["head.low: must be >= 0, got -1", "head.high: expected an in"],
        ),
        (GOOD.replace("low = 3", "low = 11"), ["head.high: is below low"]),
        ("[head]\n", ["labels: missing"]),
    ],
)
def test_mistakes_are_named_with_their_places(text, said):
    """Broken: the author of a file would not find the slip."""
    with pytest.raises(ConfigError) as refused:
        structured(text, File, "mine.toml")
    for part in said:
        assert part in str(refused.value)


def test_mistakes_in_a_table_stand_below_its_place():
    """Broken: of several variants with one slip, nobody would know which one has it."""
    with pytest.raises(ConfigError, match=r"variants\.a\.low: must be >= 0"):
        structured({"low": -1}, Head, "variants.a")
