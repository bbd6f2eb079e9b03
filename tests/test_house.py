"""The house: which way imports point, what loads torch, what every hook and component owes its readers."""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import inspect
import json
import os
import pkgutil
import re
import subprocess
import sys
import types
from pathlib import Path

import attrs
import pytest

import ddfw
from ddfw import hookspecs
from ddfw.config.catalog import catalog, plugins
from ddfw.config.extensions import commands, formats, recipe_folders
from ddfw.kinds import KINDS
from ddfw_registry import options

ROOT = Path(__file__).parents[1]
PACKAGES = ("ddfw", "ddfw_registry", "ddfw_plugins")


def python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, **environment}, timeout=120
    )


def modules() -> list[str]:
    found = []
    for package in PACKAGES:
        root = importlib.import_module(package)
        found.append(package)
        found += [
            m.name for m in pkgutil.walk_packages(root.__path__, f"{package}.") if not m.name.endswith("__main__")
        ]
    return found


def components() -> list[type]:
    return [e.cls for kind in KINDS for e in catalog().entries(kind.id)]


def test_the_top_level_holds_nothing_else():
    """Broken: the fixed ground plan."""
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if tracked.returncode != 0:
        pytest.skip("not a git checkout")
    top = {line.split("/")[0] for line in tracked.stdout.splitlines()}
    allowed = {"pyproject.toml", "README.md", "core", "plugins", "registry", "tests", "docs", "LICENSE"}
    assert {t for t in top if not t.startswith(".")} - allowed <= {"CONTRIBUTING.md", "CITATION.cff"}
    for folder in ("core", "plugins", "registry"):
        assert not (ROOT / folder / "__init__.py").exists()


def test_the_citation_names_the_version_that_is_installed():
    """Broken: a paper would cite another version than the one that was used."""
    stated = re.search(r"^version: (\S+)$", (ROOT / "CITATION.cff").read_text(encoding="utf-8"), re.MULTILINE)
    assert stated and stated[1] == importlib.metadata.version("ddfw")


def test_the_import_contracts_hold():
    """Broken: plugins -> core -> registry, or the layers inside core."""
    code = "import sys; from importlinter.cli import lint_imports_command as c; c(['--no-cache'])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and "0 broken" in done.stdout, done.stdout[-2000:] + done.stderr[-2000:]


def test_every_module_imports_alone():
    """Broken: a module that works only after another one was imported (a cycle)."""
    # One interpreter, modules forgotten between imports; torch and friends stay loaded, or this would take minutes.
    code = f"""
import importlib, sys, json
import torch, attrs, cattrs, click, rich, numpy
for name in {modules()!r}:
    for loaded in [m for m in sys.modules if m.split('.')[0] in {PACKAGES!r}]:
        del sys.modules[loaded]
    importlib.import_module(name)
"""
    done = python(code)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize(
    "code",
    [
        "from ddfw import hookimpl",
        "import ddfw.kinds, ddfw.hookspecs, ddfw.errors, ddfw.options, ddfw.randomness",
        "from ddfw.cli.main import invoke; assert invoke(['--help']) == 0",
        "from ddfw.cli.main import invoke; assert invoke(['plugins']) == 0",
        "from ddfw.cli.main import invoke; assert invoke(['run', '--help']) == 0",
        "import ddfw.contracts.parameterization, ddfw.contracts.trajectory, ddfw.contracts.executor",
    ],
)
def test_light_things_do_not_load_torch(code):
    """Broken: help, the list of plugins or a plugin's hook module would take seconds."""
    done = python(
        f"import sys; {code}; heavy = {{'torch', 'numpy', 'sklearn', 'torchvision'}} & set(sys.modules); "
        "sys.exit(f'loaded {heavy}' if heavy else 0)"
    )
    assert done.returncode == 0, done.stderr[-1000:]


def test_help_and_plugins_answer_within_half_a_second():
    """Broken: start-up time. The best of five runs, in seconds of a core: tests run beside this one."""
    for argument in ("--help", "plugins"):
        times = []
        for _ in range(5):
            before = os.times()
            done = subprocess.run([sys.executable, "-m", "ddfw", argument], capture_output=True, timeout=60)
            after = os.times()
            times.append(sum(after[2:4]) - sum(before[2:4]))
            assert done.returncode == 0
        assert 0 < min(times) <= 0.5, times


def test_the_public_api_is_complete_and_documented():
    """Broken: a name in __all__ that does not exist, or one without a docstring."""
    assert ddfw.HOOK_API == 2
    page = (ROOT / "docs" / "plugins.md").read_text(encoding="utf-8")
    for name in ddfw.__all__:
        value = getattr(ddfw, name)
        if name.endswith("_option") and name not in ("option", "required_option", "setting_option"):
            assert f"`{name}`" in page, f"docs/plugins.md lacks {name}"  # click makes it, without a docstring
        elif inspect.isclass(value) or inspect.isfunction(value):
            assert inspect.getdoc(value), name
    with pytest.raises(AttributeError, match="nonsense"):
        _ = ddfw.nonsense


def hooks() -> dict[str, object]:
    return {n: f for n, f in vars(hookspecs).items() if n.startswith("ddfw_")}


def test_every_kind_has_one_documented_hook_without_parameters():
    """Broken: a kind without a hook, a hook without a kind, or one whose docstring does not say when it is called."""
    beside = {"ddfw_register_commands", "ddfw_register_formats", "ddfw_register_recipes"}
    assert {k.hook for k in KINDS} == set(hooks()) - beside
    assert [k.id for k in KINDS] == [
        "param",
        "traj",
        "loss",
        "labels",
        "data",
        "model",
        "augment",
        "executor",
        "observer",
    ]
    reference = (ROOT / "docs" / "hooks.md").read_text(encoding="utf-8")
    for kind in KINDS:
        hook = hooks()[kind.hook]
        assert inspect.getdoc(hook).startswith("Called when"), kind.hook
        assert not inspect.signature(hook).parameters
        signature = f"{kind.hook}{inspect.signature(hook)}".replace("'", "")
        assert signature in reference, f"docs/hooks.md lacks {signature}"
        module, _, name = kind.base.partition(":")
        assert inspect.isabstract(getattr(importlib.import_module(module), name))


def contract_classes() -> list[type]:
    found = {importlib.import_module(kind.base.partition(":")[0]): None for kind in KINDS}
    return [
        cls
        for module in found
        for name, cls in vars(module).items()
        if inspect.isclass(cls) and cls.__module__ == module.__name__ and not name.startswith("_")
    ]


def public_members(cls: type) -> set[str]:
    kinds = (property, functools.cached_property, classmethod, staticmethod, types.FunctionType)
    defined = {name for name, value in vars(cls).items() if isinstance(value, (*kinds, types.MemberDescriptorType))}
    return {name for name in {*defined, *inspect.get_annotations(cls)} if not name.startswith("_")}


@pytest.mark.parametrize("cls", contract_classes(), ids=lambda c: c.__name__)
def test_every_public_member_of_a_contract_stands_in_the_reference(cls):
    """Broken: an author of plugins would not learn of a property or an attribute, such as ExpertSource.num_experts."""
    reference = (ROOT / "docs" / "hooks.md").read_text(encoding="utf-8")
    title = f"**`{cls.__module__}.{cls.__name__}`**"
    assert title in reference
    section = re.split(r"(?m)^(?:## |\*\*`ddfw\.)", reference.split(title, 1)[1])[0]
    for name in public_members(cls):
        # A signature, a property, a line of the class's docstring, or an option; or a word of the docstring in quotes.
        assert re.search(rf"(?m)^ *{name}(?:\(|:| :)|`{name}`", section), f"{cls.__name__}.{name}"


def test_every_built_in_comes_through_its_own_entry_point():
    """Broken: a built-in with a private door, or two built-ins behind one entry point."""
    points = {e.name for e in importlib.metadata.entry_points(group="ddfw.plugins") if e.dist.name == "ddfw"}
    others = [o for offers in (commands(), formats(), recipe_folders()) for o in offers.entries.values()]
    assert {o.plugin for o in others} == {
        f"ddfw:{p}" for p in points if p.startswith(("command-", "format-", "recipes-"))
    }
    declared = points - {o.plugin.removeprefix("ddfw:") for o in others}
    found = [e for kind in KINDS for e in catalog().entries(kind.id) if e.distribution == "ddfw"]
    assert {e.plugin for e in found} == {f"ddfw:{name}" for name in declared}
    assert len(found) == len(declared)
    assert all(e.plugin == f"ddfw:{e.kind}-{e.name}" for e in found)
    assert not plugins().failures and not catalog().failures


@pytest.mark.parametrize("cls", components(), ids=lambda c: c.__name__)
def test_every_component_is_documented_final_and_its_own_configuration(cls):
    """Broken: an option without help, a mutable component, state on a component, a page that does not mention it."""
    assert inspect.getdoc(cls)
    assert getattr(cls, "__final__", False), "not @final"
    assert cls.__hash__ is not None and attrs.has(cls)
    for option in options(cls):
        assert option.help, option.name
        assert option.required or option.default is None or isinstance(option.default, int | float | str | tuple)
    if not any(o.required for o in options(cls)):
        assert cls() == cls()
        with pytest.raises(attrs.exceptions.FrozenInstanceError):
            cls().name_that_is_new = 1
    assert f"`{cls.name}`" in (ROOT / "docs" / "components.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("cls", components(), ids=lambda c: c.__name__)
def test_every_public_method_of_a_component_has_a_docstring(cls):
    """Broken: shapes and ranges that nobody can look up."""
    for name, method in inspect.getmembers(cls, inspect.isfunction):
        if not name.startswith("_"):
            assert inspect.getdoc(method), f"{cls.__name__}.{name}"


def test_nothing_in_the_product_uses_pickle_or_global_random_state():
    """Broken: safety and reproducibility habits."""
    bad = re.compile(
        r"\bpickle\b(?!=)|torch\.manual_seed\(|np\.random\.|random\.seed|weights_only=False|\beval\(|\bexec\("
    )
    for package in ("core", "plugins", "registry"):
        for path in (ROOT / package).rglob("*.py"):
            for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
                code = line.split("#")[0]
                if (
                    bad.search(code)
                    and "allow_pickle=False" not in code
                    and '"""' not in code
                    and "never pickle" not in code
                ):
                    pytest.fail(f"{path.name}:{number}: {line.strip()}")


def test_every_json_schema_is_json_and_documents_are_linked():
    """Broken: a schema that no tool can read, or a page that the index does not lead to."""
    for path in (ROOT / "docs" / "schema").glob("*.json"):
        assert json.loads(path.read_text(encoding="utf-8"))["$schema"]
    index = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    for page in (ROOT / "docs").glob("*.md"):
        assert page.name == "index.md" or f"({page.name})" in index, page.name


def test_the_pages_made_from_the_code_are_up_to_date():
    """Broken: help, options or hooks were changed without `python docs/generate.py`."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "docs" / "generate.py"), "--check"], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
