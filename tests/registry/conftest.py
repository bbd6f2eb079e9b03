"""Distributions made on disk, and catalogues made from functions, for a project called `toy`."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace

import pluggy
import pytest

from ddfw_registry import Catalog, Discovery, KindInfo, Plugin, Source, discover

hookspec = pluggy.HookspecMarker("toy")
hookimpl = pluggy.HookimplMarker("toy")


class Specs:
    """The hooks of the toy project."""

    @hookspec
    def toy_register_sources(self):
        """Offers sources."""

    @hookspec
    def toy_register_losses(self):
        """Offers losses."""

    @hookspec
    def toy_run_started(self, run):
        """Observes."""


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Path]]:
    """Writes a distribution: its modules, and a dist-info folder with METADATA and entry_points.txt."""
    before = set(sys.modules)

    def write(
        name: str,
        modules: Mapping[str, str],
        entries: Mapping[str, str] | str,
        version: str = "1.0",
        where: str = "",
    ) -> Path:
        site = tmp_path / (where or name)
        info = site / f"{name.replace('-', '_')}-{version}.dist-info"
        info.mkdir(parents=True)
        for module, source in modules.items():
            header = "import pluggy\nhookimpl = pluggy.HookimplMarker('toy')\n"
            (site / f"{module}.py").write_text(header + source)
        text = entries if isinstance(entries, str) else "\n".join(f"{key} = {value}" for key, value in entries.items())
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        (info / "entry_points.txt").write_text(f"[toy.plugins]\n{text}\n")
        monkeypatch.syspath_prepend(str(site))
        importlib.invalidate_caches()
        return site

    yield write
    for module in set(sys.modules) - before:
        if "toy" in module:
            del sys.modules[module]


@pytest.fixture
def find() -> Callable[..., Discovery]:
    """Discovers the toy project's plugins; keyword arguments are environment variables."""

    def run(
        validate: Callable[[Plugin], None] | None = None,
        harmful: Callable[[Sequence[Source]], Mapping[str, str]] | None = None,
        **environ: str,
    ) -> Discovery:
        how = {"validate": validate, "harmful": harmful}
        return discover(project="toy", group="toy.plugins", hookspecs=Specs, environ=environ, **how)

    return run


@pytest.fixture
def catalog_of() -> Callable[..., Catalog]:
    """A catalogue whose sources come from functions, one plugin each."""

    def build(kinds: Iterable[KindInfo], **offers: Callable[[], object]) -> Catalog:
        manager = pluggy.PluginManager("toy")
        manager.add_hookspecs(Specs)
        plugins = []
        for name, offer in offers.items():

            def toy_register_sources(offer: Callable[[], object] = offer) -> object:
                return offer()

            obj = SimpleNamespace(toy_register_sources=hookimpl(toy_register_sources))
            manager.register(obj, name=f"dist:{name}")
            plugins.append(Plugin(f"dist:{name}", name, "dist", "1.0", "module", obj))
        return Catalog(tuple(kinds), Discovery(manager, tuple(plugins), (), ()))

    return build
