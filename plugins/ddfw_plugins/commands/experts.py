"""`ddfw experts`."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

import ddfw
from ddfw import (
    component_flags,
    data_root_option,
    download_option,
    experts_dir_option,
    flag_tables,
    quiet_option,
    set_option,
    setting_option,
)

_JSON = click.option("--json", "as_json", is_flag=True, help="JSON on standard output.")


@click.group("experts")
def experts_group() -> None:
    """Networks whose training is matched: train, list, show, import, remove."""


@experts_group.command("train")
@click.argument("recipe", required=False, metavar="[RECIPE|FILE]", shell_complete=ddfw.complete_starts)
@component_flags("data", "model", "augment", "executor")
@setting_option("--count", "experts.count", least=1, help="How many experts.")
@setting_option("--epochs", "experts.epochs", least=1, help="Epochs of each.")
@click.option("--quick", is_flag=True, help="The experts that a run with --quick takes.")
@experts_dir_option
@data_root_option
@download_option
@set_option
@quiet_option
@_JSON
def experts_train(
    recipe: str | None,
    quick: bool,
    experts_dir: Path,
    data_root: Path | None,
    download: bool,
    assignments: tuple[str, ...],
    quiet: bool,
    as_json: bool,
    **flags: Any,
) -> None:
    """Train experts ahead of a run; those that are in the store already are not trained again.

    A run with the same data, network, augmentation and [experts] settings finds them.

    \b
    ddfw experts train --data digits --count 20
    ddfw experts train --set experts.optimiser=gsam --set data.space=zca
    ddfw experts train mtt-cifar10-ipc1 --quick --data-root ~/data
    """
    tables = flag_tables(flags)
    if download:
        ddfw.download_data(ddfw.configure(recipe, tables, assignments).config, data_root)
    config = ddfw.configure(recipe, tables, assignments, data_root, quick=quick).config
    store = ddfw.train_experts(config, experts_dir, data_root, quiet=quiet or as_json)
    _show(ddfw.summarise_store(store.folder), as_json)


@experts_group.command("list")
@experts_dir_option
@_JSON
def experts_list(experts_dir: Path, as_json: bool) -> None:
    """List the expert stores."""
    stores = ddfw.list_stores(experts_dir)
    if as_json:
        facts = [{**_facts(s), "experts": len(s.experts), "problem": s.problem} for s in stores]
        ddfw.say_json(facts, indent=2)
        return
    rows = [
        {
            "name": s.name,
            "experts": len(s.experts),
            "epochs": s.epochs,
            "validation": _percent(s.validation_accuracy),
            "keeps": "damaged" if s.problem else s.form,
            "MB": f"{s.bytes / 1e6:.1f}",
        }
        for s in stores
    ]
    ddfw.show_rows(
        rows, ("name", "experts", "epochs", "validation", "keeps", "MB"), False, f"no experts in {experts_dir}"
    )
    for store in stores:
        if store.problem:
            ddfw.say(f"warning: {store.problem}", err=True)


@experts_group.command("show")
@click.argument("name", shell_complete=ddfw.complete_stores)
@experts_dir_option
@_JSON
def experts_show(name: str, experts_dir: Path, as_json: bool) -> None:
    """Show what the expert store NAME holds: how its experts were made, and how good each is."""
    store = ddfw.summarise_store(ddfw.require_store(experts_dir, name))
    if store.problem:
        raise ddfw.DataError(store.problem)
    _show(store, as_json)


@experts_group.command("import")
@click.argument("path", type=click.Path(path_type=Path))
@component_flags("data", "model")
@setting_option(
    "--zca/--no-zca",
    "data.space",
    default=None,
    callback=lambda ctx, param, zca: {True: "zca", False: "standard", None: None}[zca],
    help="Whether the experts saw whitened images; sets data.space.",
)
@setting_option(
    "--as",
    "traj",
    metavar="TRAJ",
    shell_complete=ddfw.complete_components("traj"),
    help="Keep only what this trajectory source needs, such as mct.",
)
@experts_dir_option
@data_root_option
@set_option
@quiet_option
@_JSON
def experts_import(
    path: Path,
    experts_dir: Path,
    data_root: Path | None,
    assignments: tuple[str, ...],
    quiet: bool,
    as_json: bool,
    **flags: Any,
) -> None:
    """Import the experts of PATH: a replay_buffer_N.pt of MTT, TESLA, FTD or DATM, or a folder of them.

    Such a file has no metadata, so data and network have to be named; nothing in it is executed. Experts that were
    trained elsewhere may have seen the images that ddfw holds back for selection; results say so.

    \b
    ddfw experts import buffers/ --data npz --set data.path=mine.npz --set model.depth=3 --zca
    ddfw experts import replay_buffer_0.pt --data digits --model convnet --set model.width=8 --as mct
    """
    for kind in ("data", "model"):
        if flags[kind] is None and not any(a.split("=")[0].split(".")[0].strip() == kind for a in assignments):
            raise click.UsageError(f"a buffer does not say what it was trained on: name --{kind}")
    config = ddfw.configure(None, flag_tables(flags), assignments).config
    compact = flags["traj"] is not None
    done = ddfw.import_experts(path, config, experts_dir, data_root, compact=compact, quiet=quiet or as_json)
    if done.accuracy < done.chance + 0.25 * (1 - done.chance):
        ddfw.say(
            f"warning: the first expert's last checkpoint is right about {100 * done.accuracy:.1f} % of validation "
            f"images, guessing about {100 * done.chance:.1f} %; are data, --zca and the network's options those that "
            "it was trained with?",
            err=True,
        )
    if as_json:
        facts = {**_facts(ddfw.summarise_store(done.store.folder)), "last_checkpoint_accuracy": done.accuracy}
        ddfw.say_json({**facts, "already_there": done.already_there})
        return
    there = "was imported before:" if done.already_there else "imported"
    ddfw.say(
        f"{there} {done.experts} experts of {done.epochs} epochs; the first ends at {100 * done.accuracy:.1f} % on "
        "validation images (which it may have seen)",
        f"store: {done.store.folder}",
        f"a run with them: {_run_with(done.store.folder, flags, assignments)}",
    )


def _run_with(store: Path, flags: Mapping[str, Any], assignments: tuple[str, ...]) -> str:
    """The command of a run with imported experts, on what they were trained on."""
    words = [f"--{kind} {flags[kind]}" for kind in ("data", "model", "traj") if flags[kind]]
    space = [f"data.space={flags['data__space']}"] if flags["data__space"] else []
    words += [f"--set {shlex.quote(s)}" for s in (*assignments, *space, f"experts.store={store.name}")]
    if store.parent != Path("experts"):
        words.append(f"--experts-dir {shlex.quote(str(store.parent))}")
    return f"ddfw run {' '.join(words)}"


@experts_group.command("rm")
@click.argument("name", shell_complete=ddfw.complete_stores)
@experts_dir_option
@click.option("--yes", is_flag=True, help="Do not ask.")
def experts_rm(name: str, experts_dir: Path, yes: bool) -> None:
    """Remove the expert store NAME."""
    ddfw.require_store(experts_dir, name)
    if not yes and not click.confirm(f"Remove {experts_dir / name}?"):
        ddfw.say("nothing was removed", err=True)
        raise click.exceptions.Exit(1)
    ddfw.say(f"removed {name}, {ddfw.remove_store(experts_dir, name) / 1e6:.1f} MB")


def _facts(store: ddfw.StoreSummary) -> dict[str, Any]:
    return {
        "schema": 1,
        "name": store.name,
        "folder": str(store.folder),
        "epochs": store.epochs,
        "bytes": store.bytes,
        "keeps": store.form,
        "validation_accuracy": store.validation_accuracy,
        "key": dict(store.key),
        "experts": [{"number": number, **expert.as_json()} for number, expert in sorted(store.experts.items())],
    }


def _show(store: ddfw.StoreSummary, as_json: bool) -> None:

    if as_json:
        ddfw.say_json(_facts(store))
        return
    ddfw.say(f"{store.folder}: {store.bytes / 1e6:.1f} MB, keeps {store.form}")
    for part, value in store.key.items():
        if part not in ("schema", "form"):
            ddfw.say(f"  {part:<10} {_words(value)}")
    rows = [
        {
            "expert": number,
            "epochs": store.epochs,
            "validation": _percent(e.validation_accuracy[-1] if e.validation_accuracy else None),
            "best": _percent(max(e.validation_accuracy, default=None)),
            "train loss": f"{e.train_loss[-1]:.4f}" if e.train_loss else "–",
        }
        for number, e in sorted(store.experts.items())
    ]
    ddfw.show_rows(rows, ("expert", "epochs", "validation", "best", "train loss"), False, "no experts")
    if curves := [e.validation_accuracy for e in store.experts.values() if e.validation_accuracy]:
        means = [sum(values) / len(curves) for values in zip(*curves, strict=False)]
        ddfw.say(f"mean validation accuracy after each epoch, %: {' '.join(f'{100 * m:.1f}' for m in means)}")


def _words(value: object) -> str:
    """A key's part on one line, hashes cut."""
    if isinstance(value, dict):
        return ", ".join(f"{k} {str(v)[:12] + '…' if k == 'sha256' else v}" for k, v in value.items())
    if isinstance(value, list):
        return "; ".join(_words(v) for v in value)
    return str(value)


def _percent(fraction: float | None) -> str:
    return "–" if fraction is None else f"{100 * fraction:.1f} %"
