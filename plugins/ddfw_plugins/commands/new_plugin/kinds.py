"""What `ddfw new-plugin` can start: for each kind its words, and the files of its package."""

from __future__ import annotations

from importlib.resources import files

from attrs import frozen

import ddfw


@frozen(kw_only=True)
class Start:
    """One kind of plugin.

    Args:
        what: the kind in words.
        hook: the hook by which the plugin offers what it has; "" where a template of the kind says it.
        run: a command that uses it on digits.
        option: an option that differs from its default, for the test; "" where a template of the kind has a test.
        suffix: how the name of the component's file ends.
    """

    what: str
    run: str
    hook: str = ""
    option: str = ""
    suffix: str = ".py"


#: The kinds in the order in which help shows them.
STARTS = {
    "param": Start(
        what="Parameterisation",
        hook="ddfw_register_parameterizations",
        run="ddfw run --quick --param @name@",
        option="factor=4",
    ),
    "traj": Start(
        what="Trajectory source",
        hook="ddfw_register_trajectories",
        run="ddfw run digits-ipc1-lss-mtt --quick --traj @name@",
        option="expert_epochs=3",
    ),
    "loss": Start(
        what="Matching loss",
        hook="ddfw_register_losses",
        run="ddfw run --quick --loss @name@",
        option="power=2.0",
    ),
    "labels": Start(
        what="Label strategy",
        hook="ddfw_register_labels",
        run="ddfw run --quick --labels @name@",
        option="smoothing=0.0",
    ),
    "data": Start(what="Data set", hook="ddfw_register_datasets", run="ddfw run --quick --data @name@"),
    "model": Start(
        what="Network", hook="ddfw_register_models", run="ddfw run --quick --model @name@", option="width=5"
    ),
    "augment": Start(
        what="Augmentation",
        hook="ddfw_register_augmentations",
        run="ddfw run --quick --augment @name@",
        option="strength=0.0",
    ),
    "executor": Start(
        what="Executor",
        hook="ddfw_register_executors",
        run="ddfw run --quick --executor @name@",
        option="threads=2",
    ),
    "observer": Start(
        what="Observer",
        hook="ddfw_register_observers",
        run="ddfw run --quick --observer @name@",
        option="every=3",
    ),
    "command": Start(what="Command", run="ddfw @name@ pixel lss"),
    "format": Start(
        what="Format of learned sets",
        run="ddfw run --quick --out run && ddfw export run --format @name@ --out set",
    ),
    "recipes": Start(what="Recipe", run="ddfw run --quick @name@", suffix=".toml"),
}


def package_files(kind: str, name: str) -> dict[str, str]:
    """The files of a package, by their paths in it.

    Args:
        kind: one of `STARTS`.
        name: the word that users will type.
    """
    start, package = STARTS[kind], package_of(name)
    module = f"recipes/{name}.toml" if start.suffix == ".toml" else f"{kind}.py"
    words = {
        "run": start.run,  # the first, since it holds a name itself
        "name": name,
        "kind": kind,
        "package": package,
        "distribution": distribution_of(name),
        "Class": "".join(part.capitalize() for part in package.removeprefix("ddfw_").split("_") if part),
        "what": start.what,
        "hook": start.hook,
        "option": start.option,
        "module": module,
        "stem": kind,
        "api": str(ddfw.HOOK_API),
    }
    templates = {
        "pyproject.toml": "pyproject.toml.txt",
        "README.md": "README.md.txt",
        f"src/{package}/__init__.py": "init.py.txt",
        f"src/{package}/plugin.py": "plugin.py.txt",
        f"src/{package}/{module}": f"component{start.suffix}.txt",
        f"tests/test_{package}.py": "test.py.txt",
    }
    return {path: _filled(_template(kind, template), words) for path, template in templates.items()}


def package_of(name: str) -> str:
    """The name of the Python package of a plugin; the prefix keeps it from hiding another package."""
    return f"ddfw_{name.replace('-', '_')}"


def distribution_of(name: str) -> str:
    """The name under which a plugin's package is installed."""
    return f"ddfw-{name.replace('_', '-')}"


def _template(kind: str, name: str) -> str:
    """The text of a template, the kind's own where it has one."""
    folder = files(__package__) / "templates"
    own = folder / kind / name
    return (own if own.is_file() else folder / "common" / name).read_text(encoding="utf-8")


def _filled(text: str, words: dict[str, str]) -> str:
    for word, value in words.items():
        text = text.replace(f"@{word}@", value)
    return text
