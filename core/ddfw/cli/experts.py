"""`ddfw experts`."""

from __future__ import annotations

from pathlib import Path

import click

_DIR = click.option("--experts-dir", type=click.Path(path_type=Path), default=Path("experts"), show_default=True)


@click.group("experts")
def experts_group() -> None:
    """The cache of trained experts."""


@experts_group.command("list")
@_DIR
@click.option("--json", "as_json", is_flag=True, help="A JSON array on standard output.")
def experts_list(experts_dir: Path, as_json: bool) -> None:
    """List the expert stores."""
    from ddfw.artifacts.expert_store import list_stores
    from ddfw.cli.output import show_rows

    rows = [
        {
            "name": s.name,
            "experts": s.experts,
            "epochs": s.epochs,
            "validation": f"{100 * s.validation_accuracy:.1f} %",
            "MB": f"{s.bytes / 1e6:.1f}",
            "folder": str(s.folder),
            "key": s.key,
        }
        for s in list_stores(experts_dir)
    ]
    show_rows(rows, ("name", "experts", "epochs", "validation", "MB"), as_json, f"no experts in {experts_dir}")


@experts_group.command("rm")
@click.argument("name")
@_DIR
@click.option("--yes", is_flag=True, help="Do not ask.")
def experts_rm(name: str, experts_dir: Path, yes: bool) -> None:
    """Remove the expert store NAME."""
    from ddfw.artifacts.expert_store import remove_store, require_store

    require_store(experts_dir, name)
    if not yes and not click.confirm(f"Remove {experts_dir / name}?"):
        click.echo("nothing was removed", err=True)
        raise click.exceptions.Exit(1)
    click.echo(f"removed {name}, {remove_store(experts_dir, name) / 1e6:.1f} MB")
