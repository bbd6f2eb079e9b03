"""The catalogue: which classes get in, what happens to those that do not, and what a mistyped name is answered."""

from __future__ import annotations

import pickle
import sys
from abc import ABC, abstractmethod
from typing import ClassVar

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ddfw_registry import (
    DuplicateComponentError,
    Entry,
    KindInfo,
    UnknownComponentError,
    suggest,
)


class Source(ABC):
    name: ClassVar[str]

    @abstractmethod
    def draw(self): ...


class Concrete(Source):
    def draw(self):
        return 0


@attrs.frozen
class Mct(Concrete):
    """Draws from the convex hull.

    More about it.
    """

    name: ClassVar[str] = "mct"


@attrs.frozen
class Mtt(Concrete):
    name: ClassVar[str] = "mtt"


@attrs.frozen
class OtherMct(Concrete):
    name: ClassVar[str] = "mct"


KIND = KindInfo("traj", "trajectory source", "toy_register_sources", f"{__name__}:Source")


def boom():
    raise RuntimeError("no device")


def names(catalog):
    return [entry.name for entry in catalog.entries("traj")]


def test_components_are_listed_by_name_with_their_origin(catalog_of):
    """Lists would depend on the order in which plugins happen to be called."""
    catalog = catalog_of([KIND], b=lambda: [Mtt], a=lambda: (Mct,))
    assert catalog.entries("traj") == (
        Entry("traj", "mct", Mct, "dist:a", "dist", "1.0"),
        Entry("traj", "mtt", Mtt, "dist:b", "dist", "1.0"),
    )
    assert catalog.get("traj", "mtt").cls is Mtt
    assert catalog.failures == ()
    assert catalog.kinds == (KIND,)
    assert catalog.kind("traj") is KIND


def test_the_summary_is_the_first_line_of_the_docstring(catalog_of):
    """Lists would show nothing, or a whole docstring, or fail on a class without one."""
    catalog = catalog_of([KIND], a=lambda: [Mct, Mtt])
    assert catalog.get("traj", "mct").summary == "Draws from the convex hull."
    undocumented = attrs.evolve(catalog.get("traj", "mct"), cls=type("Bare", (), {}))
    assert undocumented.summary == ""


def test_plugins_are_asked_once_and_only_when_needed(catalog_of):
    """`--help` would import every component, and a slow plugin would be slow again for each name."""
    calls = []
    catalog = catalog_of([KIND], a=lambda: calls.append(1) or [Mct])
    assert calls == []
    catalog.entries("traj")
    catalog.get("traj", "mct")
    catalog.duplicates("traj")
    assert calls == [1]


def half_way():
    yield Mtt
    boom()


@pytest.mark.parametrize("broken", [boom, half_way, sys.exit])
def test_a_hook_that_raises_is_a_failure_and_the_others_live(catalog_of, broken):
    """Called together, the first plugin to raise silences those after it."""
    catalog = catalog_of([KIND], a=lambda: [Mct], b=broken)
    assert names(catalog) == ["mct"]
    (failure,) = catalog.failures
    assert (failure.identity, failure.stage) == ("dist:b", "hook")
    assert failure.error.startswith("toy_register_sources: ")


@pytest.mark.parametrize("returned", [None, Mct, "mct", 3])
def test_a_hook_that_returns_no_list_is_a_failure(catalog_of, returned):
    """Forgetting the brackets, or the return, would crash or pass for an empty offer."""
    catalog = catalog_of([KIND], a=lambda: returned, b=lambda: [Mtt])
    assert names(catalog) == ["mtt"]
    assert "instead of a list of classes" in catalog.failures[0].error


class NotAttrs(Concrete):
    name = "plain"


class LostItsFields(Mct):
    name = "lost"


@attrs.define
class Mutable(Concrete):
    name: ClassVar[str] = "mutable"


@attrs.frozen
class Abstract(Source):
    name: ClassVar[str] = "abstract"


@attrs.frozen
class Nameless(Concrete):
    pass


@attrs.frozen
class NameIsAField(Concrete):
    name: str = "field"


@attrs.frozen
class Capital(Concrete):
    name: ClassVar[str] = "Capital"


@attrs.frozen
class Stranger:
    name: ClassVar[str] = "stranger"


@pytest.mark.parametrize(
    ("cls", "words"),
    [
        (NotAttrs, "not an attrs class"),
        (LostItsFields, "not an attrs class"),
        (Mutable, "attrs.frozen"),
        (Abstract, "not implemented: draw"),
        (Nameless, "class attribute `name`"),
        (NameIsAField, "class attribute `name`"),
        (Capital, "'Capital'"),
        (Stranger, "does not derive from Source"),
        (Mct(), "not a class"),
        (None, "not a class"),
    ],
)
def test_a_class_that_breaks_the_rules_is_left_out_alone(catalog_of, cls, words):
    """A broken class would fail in the middle of a run, or take its plugin's good classes with it."""
    catalog = catalog_of([KIND], a=lambda: [cls, Mtt])
    assert names(catalog) == ["mtt"]
    (failure,) = catalog.failures
    assert (failure.identity, failure.stage) == ("dist:a", "component")
    assert words in failure.error
    assert getattr(cls, "__name__", "") in failure.error


def test_of_two_classes_with_one_name_neither_is_chosen(catalog_of):
    """The outcome of a run would depend on which plugins are installed, without a word."""
    catalog = catalog_of([KIND], b=lambda: [OtherMct], a=lambda: [Mct, Mtt])
    assert names(catalog) == ["mtt"]
    assert catalog.duplicates("traj") == {"mct": ("dist:a", "dist:b")}
    with pytest.raises(DuplicateComponentError) as caught:
        catalog.get("traj", "mct", path="run.traj")
    assert caught.value.owners == ("dist:a", "dist:b")
    assert str(caught.value) == (
        "trajectory source 'mct' is offered by dist:a and dist:b. Keep one of them by disabling the rest: "
        "TOY_DISABLE_PLUGINS=dist:a or TOY_DISABLE_PLUGINS=dist:b. (at run.traj)"
    )


def test_one_plugin_may_offer_one_class_twice_but_not_two_of_one_name(catalog_of):
    """A harmless repetition would be an error, or a real clash inside a plugin would go unnoticed."""
    assert names(catalog_of([KIND], a=lambda: [Mct, Mct])) == ["mct"]
    catalog = catalog_of([KIND], a=lambda: [Mct, OtherMct])
    with pytest.raises(DuplicateComponentError, match="offered twice by dist:a"):
        catalog.get("traj", "mct")


def test_an_unknown_name_is_answered_with_the_one_that_was_meant(catalog_of):
    """A typing mistake would cost a look into the documentation."""
    catalog = catalog_of([KIND], a=lambda: [Mct, Mtt])
    with pytest.raises(UnknownComponentError) as caught:
        catalog.get("traj", "mtc", path="traj")
    error = caught.value
    assert str(error) == "unknown trajectory source 'mtc'. Did you mean 'mct'? Known: mct, mtt. (at traj)"
    assert (error.kind, error.title, error.name, error.known) == ("traj", "trajectory source", "mtc", ("mct", "mtt"))
    assert (error.suggestion, error.path) == ("mct", "traj")


def test_an_unknown_name_without_any_known_one_says_so(catalog_of):
    """The message would end in an empty list."""
    with pytest.raises(UnknownComponentError) as caught:
        catalog_of([KIND]).get("traj", "mct")
    assert str(caught.value) == "unknown trajectory source 'mct'. No plugin offers one."


def test_errors_survive_a_trip_to_another_process():
    """A worker's error would arrive as a TypeError about the arguments of its own constructor."""
    for error in (
        UnknownComponentError("traj", "trajectory source", "mtc", ("mct",), "traj"),
        DuplicateComponentError("traj", "mct", ("d:a", "d:b"), "traj", "trajectory source"),
    ):
        again = pickle.loads(pickle.dumps(error))  # noqa: S301 - its own dump
        assert str(again) == str(error)


def test_a_kind_whose_hook_does_not_exist_is_refused(catalog_of):
    """A typing mistake in the table of kinds would show up as a kind without components."""
    with pytest.raises(ValueError, match="no hook 'toy_register_sorces'"):
        catalog_of([attrs.evolve(KIND, hook="toy_register_sorces")])
    with pytest.raises(ValueError, match="same id"):
        catalog_of([KIND, KIND])


@pytest.mark.parametrize(
    ("word", "known", "expected"),
    [
        ("mtc", ["mct", "mtt"], "mct"),
        ("mtc", ["mtt", "mct"], "mct"),
        ("rnak", ["rank", "ranks"], "rank"),
        ("PIXEL", ["pixel"], "pixel"),
        ("ab", ["ba"], "ba"),
        ("xyz", ["pixel"], None),
        ("classbase", ["lss"], None),
        ("conv", ["convnet"], "convnet"),
        ("", ["pixel"], None),
        ("a" * 100_000, ["a" * 70], None),
        ("mct", [], None),
    ],
)
def test_the_suggestion_is_the_word_with_the_fewest_edits(word, known, expected):
    """Swapped letters would suggest another method instead of the one that was meant."""
    assert suggest(word, known) == expected


@given(st.text(max_size=20), st.lists(st.text(min_size=1, max_size=20)))
def test_a_suggestion_is_always_one_of_the_known_words(word, known):
    """A suggestion that does not exist sends people the wrong way."""
    found = suggest(word, known)
    assert found is None or found in known
    if word and word in known:
        assert found.casefold() == word.casefold()
