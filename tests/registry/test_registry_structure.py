"""Tables into objects: strict values, every problem at once and with its path, and the way back."""

from __future__ import annotations

import enum
import math
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Generic, Literal, TypeVar

import attrs
import pluggy
import pytest
from attrs import validators as v
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ddfw_registry import (
    Catalog,
    ConfigError,
    ConfigProblem,
    Discovery,
    KindInfo,
    Plugin,
    RegistryError,
    Structurer,
    UnknownComponentError,
)

if TYPE_CHECKING:
    from nowhere import Citation


T = TypeVar("T")


class Mode(enum.Enum):
    FAST = "fast"
    SAFE = "safe"


class Level(enum.IntEnum):
    ONE = 1
    TWO = 2


class OptionError(ValueError):
    def __init__(self, message, option=""):
        super().__init__(message)
        self.option = option


class Source:
    name: ClassVar[str]


class Loss(Generic[T]):
    name: ClassVar[str]


@attrs.frozen(kw_only=True)
class Ratio(Loss):
    name: ClassVar[str] = "ratio"
    citation: ClassVar[Citation] = None
    eps: float = attrs.field(default=1e-8, validator=v.gt(0))


@attrs.frozen(kw_only=True)
class Mct(Source):
    name: ClassVar[str] = "mct"
    rank: int = attrs.field(default=8, validator=v.ge(1))
    ranks: tuple[int, ...] | Literal["paper", "official"] = "paper"
    momentum: float = attrs.field(default=0.5, validator=[v.ge(0), v.lt(1)])
    inner: Loss | None = None


@attrs.frozen(kw_only=True)
class Mtt(Source):
    name: ClassVar[str] = "mtt"


@attrs.frozen(kw_only=True)
class Scalars:
    count: int = 1
    rate: float = 0.5
    label: str = "x"
    flag: bool = False
    place: Path | None = None
    mode: Literal["own", "all"] = "own"
    memory: int | Literal["auto"] = "auto"
    limit: int | None = None
    speed: Mode = Mode.FAST
    level: Level = Level.ONE
    either: float | int = 1
    pair: tuple[int, int] = (1, 2)
    mixed: tuple[int, str] = (1, "a")
    rates: tuple[float, ...] = ()
    words: list[str] = attrs.field(factory=list)
    table: dict[str, tuple[int, ...]] = attrs.field(factory=dict)
    noted: Annotated[int, ["unhashable"]] = 0
    anything: Any = 0
    binary: Literal[0, 1] = 0


@attrs.frozen(kw_only=True)
class Run:
    traj: Source
    losses: Mapping[str, Loss] = attrs.field(factory=dict)
    chain: tuple[Loss, ...] = ()
    fixed: Ratio | None = None
    scalars: Scalars = Scalars()
    steps: int = attrs.field(default=1)


KINDS = (
    KindInfo("traj", "trajectory source", "toy_register_sources", f"{__name__}:Source"),
    KindInfo("loss", "matching loss", "toy_register_losses", f"{__name__}:Loss"),
)


@pytest.fixture(scope="module")
def structurer():
    spec, impl = pluggy.HookspecMarker("toy"), pluggy.HookimplMarker("toy")

    class Specs:
        @spec
        def toy_register_sources(self): ...

        @spec
        def toy_register_losses(self): ...

    class Offers:
        @impl
        def toy_register_sources(self):
            return [Mct, Mtt]

        @impl
        def toy_register_losses(self):
            return [Ratio]

    manager = pluggy.PluginManager("toy")
    manager.add_hookspecs(Specs)
    obj = Offers()
    manager.register(obj, name="dist:a")
    plugin = Plugin("dist:a", "a", "dist", "1.0", "module", obj)
    return Structurer(Catalog(KINDS, Discovery(manager, (plugin,), (), ())))


def problems(structurer, data, cls=Scalars, path=""):
    with pytest.raises(ConfigError) as caught:
        structurer.structure(data, cls, path)
    return [str(problem) for problem in caught.value.problems]


@pytest.mark.parametrize(
    ("option", "value", "expected"),
    [
        ("count", 3, 3),
        ("rate", 3, 3.0),
        ("rate", math.inf, math.inf),
        ("label", "", ""),
        ("flag", True, True),
        ("place", "a/b", Path("a/b")),
        ("mode", "all", "all"),
        ("memory", 7, 7),
        ("memory", "auto", "auto"),
        ("limit", 3, 3),
        ("limit", None, None),
        ("speed", "safe", Mode.SAFE),
        ("level", 2, Level.TWO),
        ("either", 3, 3),
        ("either", 0.5, 0.5),
        ("pair", [3, 4], (3, 4)),
        ("mixed", [3, "b"], (3, "b")),
        ("rates", [1, 0.5], (1.0, 0.5)),
        ("words", ["a"], ["a"]),
        ("table", {"a": [1, 2], "b": []}, {"a": (1, 2), "b": ()}),
        ("noted", 3, 3),
        ("anything", [None], [None]),
        ("binary", 1, 1),
    ],
)
def test_a_well_formed_value_arrives_with_its_exact_type(structurer, option, value, expected):
    """A setting would be refused, or arrive as something that only looks like it."""
    built = getattr(structurer.structure({option: value}, Scalars), option)
    assert built == expected
    assert type(built) is type(expected)


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("count", 1.7, "count: expected an integer, got 1.7 (float)"),
        ("count", 1.0, "count: expected an integer, got 1.0 (float)"),
        ("count", True, "count: expected an integer, got true (boolean)"),
        ("count", "3", "count: expected an integer, got '3' (text)"),
        ("count", None, "count: expected an integer, got nothing"),
        ("rate", False, "rate: expected a number, got false (boolean)"),
        ("rate", "0.5", "rate: expected a number, got '0.5' (text)"),
        ("rate", 10**400, "rate: too large for a number"),
        ("label", 3, "label: expected text, got 3 (integer)"),
        ("flag", 1, "flag: expected true or false, got 1 (integer)"),
        ("place", 1, "place: expected a path, got 1 (integer)"),
        ("mode", "al", "mode: expected 'own' or 'all', got 'al' (text). Did you mean 'all'?"),
        ("memory", 1.5, "memory: expected an integer or 'auto', got 1.5 (float)"),
        ("memory", "atuo", "memory: expected an integer or 'auto', got 'atuo' (text). Did you mean 'auto'?"),
        ("limit", "3", "limit: expected an integer, got '3' (text)"),
        ("speed", "FAST", "speed: expected 'fast' or 'safe', got 'FAST' (text). Did you mean 'fast'?"),
        ("speed", ["fast"], "speed: expected 'fast' or 'safe', got ['fast'] (list)"),
        ("level", True, "level: expected 1 or 2, got true (boolean)"),
        ("binary", True, "binary: expected 0 or 1, got true (boolean)"),
        ("binary", 1.0, "binary: expected 0 or 1, got 1.0 (float)"),
        ("pair", [1], "pair: expected a list of 2 integers, got [1] (list)"),
        ("pair", 1, "pair: expected a list of 2 integers, got 1 (integer)"),
        ("pair", [1, "a"], "pair[1]: expected an integer, got 'a' (text)"),
        ("rates", "abc", "rates: expected a list of numbers, got 'abc' (text)"),
        ("words", ["a", 1], "words[1]: expected text, got 1 (integer)"),
        ("table", [], "table: expected a table of lists of integers, got [] (list)"),
        ("table", {"a b": [1.5]}, 'table."a b"[0]: expected an integer, got 1.5 (float)'),
        ("table", {1: []}, "table: keys must be text, got 1 (integer)"),
    ],
)
def test_a_value_of_another_type_is_a_problem_with_its_path(structurer, option, value, message):
    """cattrs alone turns 1.7 into 1, true into 1 and 3 into "3" without a word."""
    assert problems(structurer, {option: value}) == [message]


def test_an_integer_too_long_to_print_can_still_be_refused(structurer):
    """TOML allows long hexadecimal integers, and Python refuses to print them."""
    huge = tomllib.loads(f"label = 0x{'f' * 6000}\nmode = 0x{'f' * 6000}")
    assert problems(structurer, huge) == [
        "label: expected text, got a value that cannot be shown (integer)",
        "mode: expected 'own' or 'all', got a value that cannot be shown (integer)",
    ]
    rank = problems(structurer, {"rank": -(16**6000)}, Mct)
    assert rank == ["rank: must be >= 1, got a value that cannot be shown"]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (1.5, "ranks: expected a list of integers, 'paper' or 'official', got 1.5 (float)"),
        ([1, "a"], "ranks[1]: expected an integer, got 'a' (text)"),
    ],
)
def test_a_union_names_its_alternatives_or_the_one_that_was_meant(structurer, value, message):
    """The message would mention only the first alternative, or hide which element of a list is wrong."""
    assert problems(structurer, {"ranks": value}, Mct) == [message]


def test_all_problems_of_a_document_are_reported_together(structurer):
    """People would correct a file one run at a time."""
    data = tomllib.loads(
        """
        steps = 1.5
        stesp = 3
        chain = ["ratio", {name = "ratio", eps = 0}]
        [traj]
        name = "mct"
        rnak = 3
        rank = 0
        momentum = 1
        [traj.inner]
        name = "ratoi"
        [losses.ratio]
        eps = "small"
        [scalars]
        count = true
        pair = [1, 2, 3]
        """
    )
    assert problems(structurer, data, Run) == [
        "traj.rank: must be >= 1, got 0",
        "traj.momentum: must be < 1, got 1.0",
        "traj.inner: unknown matching loss 'ratoi'. Did you mean 'ratio'? Known: ratio.",
        "traj.rnak: unknown option 'rnak'. Did you mean 'rank'? Known: rank, ranks, momentum, inner.",
        "losses.ratio.eps: expected a number, got 'small' (text)",
        "chain[1].eps: must be > 0, got 0.0",
        "scalars.count: expected an integer, got true (boolean)",
        "scalars.pair: expected a list of 2 integers, got [1, 2, 3] (list)",
        "steps: expected an integer, got 1.5 (float)",
        "stesp: unknown option 'stesp'. Did you mean 'steps'? Known: traj, losses, chain, fixed, scalars, steps.",
    ]


def test_paths_start_where_the_table_stands(structurer):
    """A problem of a part of the document would point to the top of it."""
    assert problems(structurer, {"rank": 0, "x": 1}, Mct, path="run.traj") == [
        "run.traj.rank: must be >= 1, got 0",
        "run.traj.x: unknown option 'x'. Known: rank, ranks, momentum, inner.",
    ]
    assert problems(structurer, "nix", Source, path="traj") == [
        "traj: unknown trajectory source 'nix'. Known: mct, mtt."
    ]


def test_a_missing_option_says_what_belongs_there(structurer):
    """The message would be a TypeError about keyword arguments."""
    assert problems(structurer, {}, Run) == ["traj: missing, expected a trajectory source"]


def test_options_of_a_component_without_any_are_unknown(structurer):
    """The list of known options would end in nothing."""
    assert problems(structurer, {"name": "mtt", "speed": 1}, Source) == [
        "speed: unknown option 'speed'. There are no options here."
    ]


def test_an_option_of_another_component_says_whose_it_is(structurer):
    """Whoever took another component would look for a typing mistake."""
    assert problems(structurer, {"traj": {"name": "mtt", "rank": 1}}, Run) == [
        "traj.rank: unknown option 'rank' of mtt; it belongs to mct. There are no options here."
    ]
    assert problems(structurer, {"traj": {"name": "mtt", "rnak": 1}}, Run) == [
        "traj.rnak: unknown option 'rnak'. Did you mean 'rank' of mct? There are no options here."
    ]


def test_an_option_that_stands_in_the_wrong_table_is_sent_to_the_right_one(structurer):
    """Whoever forgets the table would be sent to a table of a similar name."""
    known = "Known: traj, losses, chain, fixed, scalars, steps."
    for key in ("rank", "rnak"):
        assert problems(structurer, {"traj": "mct", key: 1}, Run) == [
            f"{key}: unknown option '{key}'. Did you mean 'traj.rank'? {known}"
        ]
    # Not an option of the component that is chosen, so setting it there would be the next mistake.
    assert problems(structurer, {"traj": "mtt", "rank": 1}, Run) == [
        f"rank: unknown option 'rank'; it belongs to traj = mct. {known}"
    ]
    assert problems(structurer, {"traj": "mtt", "mct": {"rank": 1}}, Run) == [
        f"mct: unknown option 'mct'; mct is a trajectory source, whose options stand in the table 'traj'. {known}"
    ]
    assert problems(structurer, {"traj": "mct", "rank": 1}, Run, path="run")[0].startswith("run.rank: ")
    assert "'run.traj.rank'" in problems(structurer, {"traj": "mct", "rank": 1}, Run, path="run")[0]


def test_a_component_is_a_table_with_a_name_or_the_bare_name(structurer):
    """`--traj mct` and `traj = {name = "mct"}` would be two languages."""
    assert structurer.structure({"traj": "mct"}, Run).traj == Mct()
    assert structurer.structure({"traj": {"name": "mct", "rank": 2}}, Run).traj == Mct(rank=2)
    assert structurer.structure({"name": "mtt"}, Source) == Mtt()
    assert structurer.structure({"name": "mct", "inner": "ratio"}, Source) == Mct(inner=Ratio())


@attrs.frozen(kw_only=True)
class Judged:
    loss: Loss[Any]


def test_a_generic_base_may_be_annotated_with_its_argument(structurer):
    """A kind whose base class is generic could not be a field of a strictly typed config."""
    assert structurer.structure({"loss": "ratio"}, Judged).loss == Ratio()
    assert structurer.structure({"loss": {"name": "ratio"}}, Judged).loss == Ratio()


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({}, "traj.name: missing, expected the name of a trajectory source. Known: mct, mtt."),
        ({"name": 3}, "traj.name: expected text, got 3 (integer)"),
        (3, "traj: expected a trajectory source (its name, or a table with its name), got 3 (integer)"),
        ("mtc", "traj: unknown trajectory source 'mtc'. Did you mean 'mct'? Known: mct, mtt."),
    ],
)
def test_a_component_that_cannot_be_looked_up_is_a_problem_of_its_table(structurer, value, message):
    """A mistyped name would be reported somewhere else, or as a missing field."""
    assert problems(structurer, {"traj": value}, Run) == [message]


def test_errors_about_components_are_kept_with_their_whole_path(structurer):
    """A caller could not tell a mistyped name, which it can help with, from any other problem."""
    with pytest.raises(ConfigError) as caught:
        structurer.structure({"traj": {"name": "mct", "inner": "x"}, "steps": ""}, Run, "run")
    (cause,) = caught.value.causes
    assert isinstance(cause, UnknownComponentError)
    assert (cause.kind, cause.name, cause.path) == ("loss", "x", "run.traj.inner")


def test_a_mapping_of_components_takes_names_from_its_keys(structurer):
    """Two components of one class could not be told apart, or every table would need its key twice."""
    data = {"traj": "mtt", "losses": {"ratio": {}, "sharp": {"name": "ratio", "eps": 1}, "bare": "ratio"}}
    assert structurer.structure(data, Run).losses == {"ratio": Ratio(), "sharp": Ratio(eps=1.0), "bare": Ratio()}
    assert problems(structurer, {"traj": "mtt", "losses": {"raito": {}, "ratio": True}}, Run) == [
        "losses.raito: unknown matching loss 'raito'. Did you mean 'ratio'? Known: ratio.",
        "losses.ratio: expected a matching loss (its name, or a table with its name), got true (boolean)",
    ]


def test_a_field_of_one_components_class_needs_no_name_but_accepts_it(structurer):
    """What `unstructure` writes for such a field could not be read back."""
    for table in ({"eps": 1}, {"name": "ratio", "eps": 1}):
        assert structurer.structure({"traj": "mtt", "fixed": table}, Run).fixed == Ratio(eps=1.0)
    assert problems(structurer, {"name": "mct"}, Ratio) == ["name: unknown option 'name'. Known: eps."]


@attrs.frozen(kw_only=True)
class Checked:
    odd: int = attrs.field(default=1)
    chosen: str = attrs.field(default="a", validator=v.in_(["alpha", "beta"]))
    few: tuple[int, ...] = attrs.field(default=(1,), validator=[v.min_len(1), v.max_len(2)])
    rates: tuple[float, ...] = attrs.field(default=(), validator=v.deep_iterable(v.and_(v.ge(0), v.le(1))))
    maybe: int | None = attrs.field(default=None, validator=v.optional(v.ge(1)))
    memory: int | str = attrs.field(default="auto", validator=v.or_(v.in_(["auto"]), v.ge(0)))
    low: int = 0
    high: int = attrs.field(default=10)
    share: float = attrs.field(default=0.0, converter=abs, validator=v.le(1))
    _hidden: int = attrs.field(default=0, validator=v.le(5))
    made: int = attrs.field(init=False, default=7)

    @odd.validator
    def _odd(self, field, value):
        if value % 2 == 0:
            raise ValueError(f"{value} is not odd,\n   unfortunately")

    @high.validator
    def _above(self, field, value):
        if value < self.low:
            raise ValueError(f"{value} is below low ({self.low})")


def test_every_validator_speaks_and_in_plain_words(structurer):
    """attrs stops at the first failing validator and words it for programmers."""
    data = {
        "odd": 2,
        "chosen": "alhpa",
        "few": [],
        "rates": [0.5, 2, -1],
        "maybe": 0,
        "high": -1,
        "share": -2,
        "hidden": 9,
    }
    assert problems(structurer, data, Checked) == [
        "odd: 2 is not odd, unfortunately",
        "chosen: must be 'alpha' or 'beta', got 'alhpa'. Did you mean 'alpha'?",
        "few: must have at least 1 element, got 0",
        "rates[1]: must be <= 1, got 2.0",
        "rates[2]: must be >= 0, got -1.0",
        "maybe: must be >= 1, got 0",
        "high: -1 is below low (0)",
        "share: must be <= 1, got 2.0",
        "hidden: must be <= 5, got 9",
    ]
    assert problems(structurer, {"few": [1, 2, 3], "made": 3, "chosen": "alpha"}, Checked)[0] == (
        "few: must have at most 2 elements, got 3"
    )


def test_validators_see_the_other_fields_as_they_will_be(structurer):
    """A validator that compares two fields would fail for good values, or crash when the other one is wrong."""
    assert structurer.structure({"low": 20, "high": 30, "chosen": "beta"}, Checked).high == 30
    assert problems(structurer, {"low": 20, "chosen": "beta"}, Checked) == ["10 is below low (20)"]
    assert problems(structurer, {"low": "x", "high": 3}, Checked) == ["low: expected an integer, got 'x' (text)"]


@attrs.frozen(kw_only=True)
class Together:
    low: int = 0
    high: int = 1

    def __attrs_post_init__(self):
        if self.low > self.high:
            raise OptionError("must not be above high", "low")
        if self.low == self.high:
            raise ValueError("nothing between low and high")


@attrs.frozen(kw_only=True)
class Outer:
    window: Together = Together()
    windows: tuple[Together, ...] = ()


def test_what_a_constructor_refuses_is_a_problem_of_its_table(structurer):
    """Rules between options would end in a traceback."""
    data = {"window": {"low": 3}, "windows": [{}, {"low": 1}]}
    assert problems(structurer, data, Outer) == [
        "window.low: must not be above high",
        "windows[1]: nothing between low and high",
    ]


@attrs.frozen(kw_only=True)
class Odd:
    call: type | None = None
    raw: bytes = b""


def test_options_that_no_file_can_hold_keep_their_default(structurer):
    """A component with an option for programmers only could not be used from a file at all."""
    assert structurer.structure({}, Odd) == Odd()
    assert problems(structurer, {"raw": "x"}, Odd) == ["raw: cannot be set in a config (its type is bytes)"]


@attrs.frozen(kw_only=True)
class Unresolvable:
    who: Citation = None


def test_an_annotation_that_does_not_exist_is_the_classs_fault(structurer):
    """A plugin author's mistake would be blamed on the config."""
    with pytest.raises(RegistryError, match=r"Unresolvable\.who") as caught:
        structurer.structure({}, Unresolvable)
    assert not isinstance(caught.value, ConfigError)


def test_a_base_class_that_cannot_be_imported_is_an_error_of_the_program(catalog_of):
    """cattrs swallows errors of predicates: every component would be reported as impossible to set."""
    kind = attrs.evolve(KINDS[0], base="toy_no_such_module:Base")
    with pytest.raises(ModuleNotFoundError):
        Structurer(catalog_of([kind])).structure({"traj": "mct"}, Run)


def test_a_long_list_of_problems_is_cut_to_six_lines():
    """A wrong file would scroll its own first problem out of sight."""
    many = tuple(ConfigProblem(f"a{index}", "wrong") for index in range(9))
    assert str(ConfigError(many[:6])).count("\n") == 5
    assert str(ConfigError(many)).splitlines() == [*(str(problem) for problem in many[:5]), "... and 4 more"]
    assert str(ConfigError((ConfigProblem("", "no table"),))) == "no table"


def test_the_way_back_is_what_a_file_can_hold(structurer):
    """A resolved config could not be written down."""
    run = Run(
        traj=Mct(ranks=(1, 2), inner=Ratio()),
        losses={"a": Ratio(eps=2.0)},
        fixed=Ratio(),
        scalars=Scalars(place=Path("a") / "b", speed=Mode.SAFE, level=Level.TWO),
    )
    table = structurer.unstructure(run)
    assert table["traj"] == {
        "name": "mct",
        "rank": 8,
        "ranks": [1, 2],
        "momentum": 0.5,
        "inner": {"name": "ratio", "eps": 1e-8},
    }
    assert table["losses"] == {"a": {"name": "ratio", "eps": 2.0}}
    scalars = table["scalars"]
    assert (scalars["place"], scalars["speed"], scalars["level"]) == (str(Path("a/b")), "safe", 2)
    assert type(scalars["level"]) is int
    assert "limit" not in scalars
    assert structurer.structure(table, Run) == run


def test_objects_that_no_file_can_hold_are_refused(structurer):
    """A config would be written that cannot be read back."""
    with pytest.raises(RegistryError, match="type bytes"):
        structurer.unstructure(Odd())
    with pytest.raises(TypeError):
        structurer.unstructure({"a": 1})


numbers = st.floats(allow_nan=False)
ratios = st.builds(Ratio, eps=st.floats(min_value=1e-9, allow_nan=False))
sources = st.one_of(
    st.builds(Mtt),
    st.builds(
        Mct,
        rank=st.integers(min_value=1),
        ranks=st.one_of(st.sampled_from(["paper", "official"]), st.lists(st.integers()).map(tuple)),
        momentum=st.floats(min_value=0, max_value=1, exclude_max=True),
        inner=st.none() | ratios,
    ),
)
scalars = st.builds(
    Scalars,
    count=st.integers(),
    rate=numbers,
    label=st.text(),
    flag=st.booleans(),
    place=st.none() | st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])).map(Path),
    mode=st.sampled_from(["own", "all"]),
    memory=st.integers() | st.just("auto"),
    limit=st.none() | st.integers(),
    speed=st.sampled_from(Mode),
    level=st.sampled_from(Level),
    either=numbers | st.integers(),
    pair=st.tuples(st.integers(), st.integers()),
    mixed=st.tuples(st.integers(), st.text()),
    rates=st.lists(numbers).map(tuple),
    words=st.lists(st.text()),
    table=st.dictionaries(st.text(), st.lists(st.integers()).map(tuple)),
    binary=st.sampled_from([0, 1]),
)
runs = st.builds(
    Run,
    traj=sources,
    losses=st.dictionaries(st.text(), ratios),
    chain=st.lists(ratios).map(tuple),
    fixed=st.none() | ratios,
    scalars=scalars,
    steps=st.integers(),
)

junk = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.binary(max_size=3)
    | st.sampled_from(["mct", "mtt", "ratio", "paper", "auto", object(), int]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3) | st.integers(), inner, max_size=3),
    max_leaves=8,
)


def table_of(cls, **better):
    """Tables with the options of a class, some good ones, most of them junk."""
    keys = [field.alias for field in attrs.fields(cls)]
    return st.fixed_dictionaries({}, optional={key: better.get(key, junk) for key in [*keys, "name", "rnak"]})


junk_runs = table_of(
    Run,
    traj=junk | table_of(Mct, name=st.just("mct")),
    losses=junk | st.dictionaries(st.sampled_from(["ratio", "x", "a b"]), junk | table_of(Ratio)),
    chain=junk | st.lists(junk | table_of(Ratio, name=st.just("ratio"))),
    scalars=junk | table_of(Scalars),
)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(runs)
def test_what_was_written_is_read_back_equal(structurer, run):
    """A run repeated from its own config would not be the same run."""
    assert structurer.structure(structurer.unstructure(run), Run) == run


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(junk_runs | junk)
def test_no_value_raises_anything_but_a_config_error(structurer, data):
    """A strange value in a file would end in a traceback instead of a message."""
    try:
        structurer.structure(data, Run)
    except ConfigError as error:
        assert error.problems
        for problem in error.problems:
            assert "\n" not in str(problem)
            assert problem.message
