"""Names: one public name of core means one thing."""

from __future__ import annotations

import ast
import inspect
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import ddfw

CORE = Path(__file__).resolve().parents[1] / "core" / "ddfw"

#: Names that several modules of core define, and why that is no confusion.
EXPLAINED = {
    "PreparedT": "a TypeVar for what a trajectory source prepares; each module that is generic in it makes its own",
    "SPECS": "image shapes that a check of ddfw.testing tries; each check has its own, in a private module",
    "T": "a TypeVar for any type; each module that is generic in it makes its own",
    "generator": "ddfw.testing._common is private and has the plain one, from a seed alone; runs use ddfw.randomness",
    "logger": "logging.getLogger(__name__), which the standard library wants made anew in each module",
}


def bound_names(body: list[ast.stmt]) -> Iterator[str]:
    """The names of classes, functions and constants that statements define; imported names are not among them."""
    for node in body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            yield from (part.id for target in targets for part in ast.walk(target) if isinstance(part, ast.Name))
        elif isinstance(node, ast.If | ast.Try):
            handled = [inner for handler in getattr(node, "handlers", []) for inner in handler.body]
            yield from bound_names([*node.body, *node.orelse, *handled])


def modules_by_name() -> dict[str, set[str]]:
    """The modules of core that define each public name at their top level."""
    found: dict[str, set[str]] = defaultdict(set)
    for path in CORE.rglob("*.py"):
        module = ".".join(("ddfw", *path.relative_to(CORE).with_suffix("").parts)).removesuffix(".__init__")
        for name in bound_names(ast.parse(path.read_text(encoding="utf-8")).body):
            if not name.startswith("_"):
                found[name].add(module)
    return found


def test_every_public_name_is_unique_in_core_or_explained():
    """Broken: two things of core have one name, and are taken for each other; or an explanation is stale."""
    several = {name: sorted(modules) for name, modules in modules_by_name().items() if len(modules) > 1}
    assert {name: modules for name, modules in several.items() if name not in EXPLAINED} == {}
    assert set(EXPLAINED) <= set(several), "these names are unique now: take them out of EXPLAINED"


def test_the_names_that_are_compared_are_those_that_exist():
    """Broken: modules or definitions would be overlooked, and two things of one name with them."""
    found, compared = modules_by_name(), 0
    for name in ddfw.__all__:
        value = getattr(ddfw, name)
        if (inspect.isclass(value) or inspect.isfunction(value)) and value.__module__.startswith("ddfw."):
            assert value.__module__ in found[value.__name__], name
            compared += 1
    assert compared > 50
    assert found["T"] >= {"ddfw.options", "ddfw.config.files"}  # one stands below `if TYPE_CHECKING`
    assert found["KINDS"] == {"ddfw.kinds"}
