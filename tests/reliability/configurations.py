"""Makes configurations, right and wrong, and runs them in this process with a watch on time and memory.

Run as a program it takes the number of the first configuration, that of the last and a folder, and prints one line of
JSON for each. A configuration is made from its number alone, so that any of them can be looked at again.
"""

from __future__ import annotations

import importlib.util
import json
import os
import random
import resource
import signal
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import attrs

Tables = dict[str, Any]

#: No configuration may take longer, in seconds of a processor (other programs may keep it waiting), or let the process
#: hold more, in bytes.
MOST_S, MOST_BYTES = 10.0, 2 * 10**9
#: Numbers that nobody means, and numbers at the edges of what computers count with.
NUMBERS: tuple[Any, ...] = (
    *(0, -1, 1, 2, 3, 7, 2**31 - 1, 2**31, 2**32, 2**53 + 1, 2**63 - 1, 2**63, 2**64, -(2**63), 10**5, 10**9, 10**12),
    *(10**18, 10**30, -(10**30), 0.0, -0.0, 1e-30, 1e-320, 0.5, 1.0, 1.5, 1e20, 1e38, 1e39, 1e300, -1e300),
    *(float("inf"), float("-inf"), float("nan")),
)
TEXTS = (
    *("", " ", "0", "1e9", "true", "auto", "none", "None", "lss", "mct", "digits", "../..", "/", "/etc/passwd", "a\nb"),
    *(
        "x" * 5000,
        "é" * 100,
        "名前",
        "\u202egnp",
        "\x1b[31mred",
        "\x00",
        "🙂",
        "a.b.c",
        "[1, 2]",
        "{",
        "'''",
        "%s%n",
        "$HOME",
    ),
)
#: What the names of tables and options are changed to.
KEYS = ("", " ", "name", "nmae", "Rank", "x" * 300, "ключ", "a b", "run", "steps", "cls", "__class__", "\x1b[2J")
#: Settings that keep every right configuration small.
SMALL: Mapping[str, Tables] = {
    "experts": {"count": 2, "epochs": 3},
    "outer": {"steps": 3, "syn_steps": 3},
    "eval": {"networks": 2, "epochs": 3, "full_epochs": 1, "every": 2},
    "window": {"max_start": 1},
    "executor": {"name": "cpu", "threads": 1},
    "data": {"name": "digits"},
}
MODELS = ("convnet", "mlp", "vgg11", "alexnet", "resnet18")
#: Of so many right configurations one is measured; the others are checked and planned alone, which takes a tenth.
MEASURED = 8
_times: Any = None
_peak: Any = None
WAYS = ("set", "toml", "plan", "distill")


@attrs.frozen(kw_only=True)
class Case:
    """One configuration.

    Args:
        number: its number, from which everything else is made.
        way: how it is given: `set` (flags --set), `toml` (a file), `plan` or `distill` (dictionaries).
        tables: its tables; keys and values may be anything.
        text: what is put in place of the file's text, "" to write the tables.
        wrong: number of changes that were made to a right configuration.
    """

    number: int
    way: str
    tables: Tables
    text: str = ""
    wrong: int = 0


def small_tables(rng: random.Random) -> Tables:
    """A right configuration that runs within a second or so."""
    tables: Tables = {name: dict(table) for name, table in SMALL.items()}
    model = rng.choice(MODELS[:2] if rng.random() < 0.8 else MODELS)
    tables["model"] = {"name": model, "width": rng.choice((2, 4, 8)), **({"depth": 2} if model in MODELS[:2] else {})}
    param = rng.choice(("lss", "lss", "pixel", "multiformation", "fred", "linba"))
    small = {"lss": {"rank": rng.choice((2, 4))}, "fred": {"coefficients": 16}, "linba": {"bases": 2}}
    tables["param"] = {"name": param, **small.get(param, {})}
    tables["traj"] = {"name": rng.choice(("mct", "mtt"))}
    tables["loss"] = {"name": rng.choice(("ratio", "nearest", "masked"))}
    tables["labels"] = {"name": rng.choice(("hard", "soft", "teacher"))}
    tables["augment"] = {"name": rng.choice(("none", "dsa"))}
    tables["budget"] = {"ipc": rng.choice((1, 2, 3))}
    return tables


def options() -> Mapping[str, Mapping[str, Mapping[str, attrs.Attribute[Any]]]]:
    """The fields of all options: by table, by the component's name ("" where the table is none), by option."""
    from ddfw.config.catalog import catalog
    from ddfw.config.load import settings_tables
    from ddfw.kinds import KINDS

    found = {table: {"": attrs.fields_dict(attrs.resolve_types(cls))} for table, cls in settings_tables().items()}
    for kind in KINDS:
        entries = catalog().entries(kind.id)
        found[kind.id] = {e.name: attrs.fields_dict(attrs.resolve_types(e.cls)) for e in entries}
    return found


def anything(rng: random.Random, depth: int = 0) -> Any:
    """A value of any type, TOML's and Python's."""
    kind = rng.randrange(12 if depth < 3 else 8)
    if kind < 4:
        return rng.choice(NUMBERS)
    if kind < 6:
        return rng.choice(TEXTS)
    if kind == 6:
        return rng.random() < 0.5
    if kind == 7:
        return rng.choice((int("9" * 400), rng.getrandbits(62), rng.uniform(-1e9, 1e9), [], {}))
    if kind < 10:
        return [anything(rng, depth + 1) for _ in range(rng.choice((0, 1, 2, 5, 200)))]
    return {rng.choice(KEYS): anything(rng, depth + 1) for _ in range(rng.randrange(4))}


def fitting(field: attrs.Attribute[Any], rng: random.Random) -> Any:
    """A value of an option's own type, small or absurd; that its range allows it is not certain."""
    forms = [form for form in (get_args(field.type) or (field.type,)) if form is not type(None)]
    form = field.type if get_origin(field.type) in (Literal, tuple) else rng.choice(forms)
    if get_origin(form) is Literal:
        return rng.choice(get_args(form))
    if form is bool:
        return rng.random() < 0.5
    if form is int:
        return rng.choice([n for n in NUMBERS if isinstance(n, int)] + [rng.randrange(1, 12)])
    if form is float:
        return rng.choice([n for n in NUMBERS if isinstance(n, float)] + [rng.random(), rng.uniform(0, 100)])
    if form is str:
        return rng.choice(TEXTS)
    return [rng.choice((*NUMBERS[:6], *TEXTS[:4], 1, 0.01)) for _ in range(rng.randrange(4))]


def changed(tables: Tables, rng: random.Random, known: Mapping[str, Any]) -> None:
    """Makes one change, mostly for the worse."""
    table = rng.choice(list(known))
    own = tables.get(table)
    name = own.get("name", "") if isinstance(own, dict) else ""
    fields = known[table].get(name if isinstance(name, str) else "", {}) or rng.choice(list(known[table].values()))
    kind = rng.random()
    if kind < 0.06:
        tables[table] = anything(rng)
        return
    if kind < 0.10:
        tables[rng.choice(KEYS) or "?"] = anything(rng)
        return
    if kind < 0.13:
        tables.setdefault("cross", {})
        tables["cross"] = {rng.choice(("a", "..", "x" * 300, "")): anything(rng)}
        return
    if kind < 0.16:
        tables["observers"] = {rng.choice(("metrics", "progress", "o")): rng.choice(({}, "metrics", anything(rng)))}
        return
    if not isinstance(own, dict):
        own = tables[table] = {}
    if kind < 0.22:
        own["name"] = rng.choice((*known[table], rng.choice(TEXTS), "lsss", anything(rng)))
    elif kind < 0.28:
        own[rng.choice(KEYS)] = anything(rng)
    elif fields:
        option = rng.choice(list(fields))
        own[option] = fitting(fields[option], rng) if kind < 0.75 else anything(rng)


def case(number: int, known: Mapping[str, Any]) -> Case:
    """The configuration of a number."""
    rng = random.Random(f"configuration {number}")
    tables, way = small_tables(rng), rng.choice(WAYS)
    wrong = 0 if rng.random() < 0.03 else rng.choice((1, 1, 1, 2, 3))
    for _ in range(wrong):
        changed(tables, rng, known)
    text = ""
    if way == "toml":
        text = as_toml(tables)
        if rng.random() < 0.1:  # a file that is no TOML any more, or another one
            at = rng.randrange(len(text))
            before, after = text[:at], text[at:]
            text = rng.choice((before, before + rng.choice(TEXTS) + after, text + text, before + after[1:]))
    return Case(number=number, way=way, tables=tables, text=text, wrong=wrong)


def as_value(value: Any) -> str:
    """A value as TOML has it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(k)} = {as_value(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(as_value, value)) + "]"
    return json.dumps(value) if isinstance(value, str) else repr(value)


def as_toml(tables: Tables) -> str:
    """A TOML file of tables."""
    values = [f"{json.dumps(k)} = {as_value(v)}" for k, v in tables.items() if not isinstance(v, dict)]
    for name, table in tables.items():
        if isinstance(table, dict):
            values += [f"[{json.dumps(name)}]", *(f"{json.dumps(k)} = {as_value(v)}" for k, v in table.items())]
    return "\n".join(values) + "\n"


def as_flags(tables: Tables) -> list[str]:
    """Tables as --set flags, each option by itself; a table's name comes first."""
    flags = []
    for name, table in tables.items():
        if not isinstance(table, dict):
            flags.append(f"--set={name}={as_value(table)}")
            continue
        for key, value in sorted(table.items(), key=lambda item: item[0] != "name"):
            flags.append(f"--set={name}.{key}={value if isinstance(value, str) else as_value(value)}")
    return flags


class TooSlow(BaseException):
    """The time of a configuration is over."""


def _over(number: int, frame: object) -> None:
    raise TooSlow


def peak_bytes() -> int:
    """The most memory that this process has held so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def answer(case: Case, folder: Path, call: Any) -> tuple[int, str]:
    """Plans a configuration the way that it is given; the exit code and what was said."""
    if case.way in ("set", "toml"):
        words = as_flags(case.tables)
        if case.way == "toml":
            (folder / "c.toml").write_text(case.text, encoding="utf-8")
            words = [str(folder / "c.toml")]
        start = ["run", *(words if case.way == "toml" else ["default", *words])]
        said = call(*start, "--dry-run", "--json", "--out", folder / "out", "--experts-dir", folder / "experts")
        return said.code, said.err
    import ddfw
    from ddfw.errors import DdfwError, OptionError, RegistryError

    codes = {"ConfigError": 2, "OptionError": 2, "PluginError": 3, "DataError": 4}
    try:
        if case.way == "plan":
            ddfw.plan(ddfw.configure(None, case.tables).config)
        else:  # where the folder holds something else, a right configuration ends there
            (folder / "full").mkdir(exist_ok=True)
            (folder / "full" / "config.toml").write_text("something else", encoding="utf-8")
            ddfw.distill("default", settings=case.tables, out=folder / "full", experts_dir=folder / "experts")
    except (DdfwError, OptionError, RegistryError) as error:
        return codes.get(type(error).__name__, getattr(error, "exit_code", 1)), f"error: {error}"
    return 0, ""


def watched(case: Case, folder: Path, call: Any) -> dict[str, Any]:
    """Plans a configuration; what came of it, JSON-able."""
    import ddfw.config.load as load
    from ddfw.forecast import dry_run

    global _times, _peak
    _times, _peak = _times or dry_run.predicted_times, _peak or dry_run.predicted_peak
    reached: list[int] = []
    real = load.structured_config
    load.structured_config = lambda settings: (reached.append(1), real(settings))[1]
    dry_run.predicted_times = _times if case.number % MEASURED == 0 else lambda *_: {}
    dry_run.predicted_peak = _peak if case.number % MEASURED == 0 else lambda *_: {}
    before, began, fault = peak_bytes(), time.process_time(), ""
    code, said = -1, ""
    signal.setitimer(signal.ITIMER_PROF, MOST_S + 2)
    try:
        code, said = answer(case, folder, call)
    except TooSlow:
        fault = "too slow"
    except Exception:
        fault = traceback.format_exc(limit=-4)
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        load.structured_config = real
    seconds, peak = time.process_time() - began, peak_bytes()
    lines = said.splitlines()
    if seconds > MOST_S:
        fault = fault or "too slow"
    if peak > MOST_BYTES and peak > before:
        fault = fault or f"{peak / 1e9:.1f} GB"
    if code == 70 or code not in (0, 1, 2, 3, 4, 5, -1) or "Traceback" in said or "internal error" in said:
        fault = fault or f"exit {code}"
    if code not in (0, -1) and not 1 <= len(lines) <= 6 + said.count("warning:"):
        fault = fault or f"{len(lines)} lines"
    return {
        **{"number": case.number, "way": case.way, "reached": bool(reached), "code": code},
        **{"seconds": round(seconds, 3), "peak": peak, "fault": fault, "said": said[:600] if fault else ""},
    }


def conftest_call() -> Any:
    """`call` of the tests' conftest: the command line in this process."""
    spec = importlib.util.spec_from_file_location("root_conftest", Path(__file__).parents[1] / "conftest.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.call


def main(arguments: Sequence[str]) -> None:
    """Plans the configurations of a range of numbers, one line of JSON each."""
    first, last, folder = int(arguments[0]), int(arguments[1]), Path(arguments[2])
    call = conftest_call()
    from ddfw.forecast import time as forecast_time

    forecast_time.MOST_REPEATS = 1  # what is measured is not the point
    os.chdir(folder)
    # Whatever takes more memory than allowed fails here, and not on the whole machine.
    resource.setrlimit(resource.RLIMIT_DATA, (4 * 10**9, 4 * 10**9))
    signal.signal(signal.SIGPROF, _over)
    known = options()
    for number in range(first, last):
        sys.stdout.write(json.dumps(watched(case(number, known), folder, call)) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1:])
