"""`ddfw export`."""

from __future__ import annotations

from pathlib import Path

import click

import ddfw

#: What plugins can write: name and summary.
WRITABLE = {name: offer.item.summary for name, offer in ddfw.formats().entries.items() if offer.item.writer}


@click.command("export", epilog="\b\n" + "\n".join(f"{name}: {summary}" for name, summary in WRITABLE.items()))
@click.argument("run", type=click.Path(path_type=Path), shell_complete=ddfw.complete_runs)
@click.option(
    "--format",
    "form",
    metavar=f"[{'|'.join(WRITABLE)}]",
    required=True,
    shell_complete=lambda context, option, start: [name for name in WRITABLE if name.startswith(start)],
    help="What to write.",
)
@click.option("--out", type=click.Path(path_type=Path), help="A new folder; the default is RUN/export/FORMAT.")
@click.option("--force", is_flag=True, help="Replace the export that lies there; anything else is left alone.")
@click.option("--json", "as_json", is_flag=True, help="The export's card on standard output.")
def export_command(run: Path, form: str, out: Path | None, force: bool, as_json: bool) -> None:
    """Write the learned set of RUN for other programs.

    Every export has a card.json, and `ddfw eval` and `ddfw.load` read it again. The formats come from plugins; where
    one rounds, the card says what that cost.
    """
    if out is None:
        out = run / "export" / form
        if not out.resolve().is_relative_to(run.resolve()):
            raise ddfw.DataError(f"{out} is a link that leads out of the run; name another place by --out")
    card = ddfw.export(run, form, out, force=force)
    if as_json:
        ddfw.say_json({**card, "folder": str(out)})
        return
    count = len(card["sha256"])
    ddfw.say(f"written: {out}, {count} {'file' if count == 1 else 'files'} and card.json")
    if rounding := card["export"].get("rounding"):
        ddfw.say(
            f"8-bit pixels cost {rounding['root_mean_square']:.2g} (root mean square) in training space, at most "
            f"{rounding['largest']:.2g}"
        )
    for note in card["export"].get("notes", ()):
        ddfw.say(f"note: {note}", err=True)
