"""`ddfw export`."""

from __future__ import annotations

import json
from pathlib import Path

import click

FORMATS = ("safetensors", "npz", "mtt", "imagefolder")


@click.command("export")
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--format", "form", type=click.Choice(FORMATS), required=True, help="What to write.")
@click.option("--out", type=click.Path(path_type=Path), help="A new folder; the default is RUN/export/FORMAT.")
@click.option("--json", "as_json", is_flag=True, help="The export's card on standard output.")
def export_command(run: Path, form: str, out: Path | None, as_json: bool) -> None:
    """Write the learned set of RUN for other programs.

    safetensors and npz hold training-space images and target probabilities; mtt writes images_best.pt, labels_best.pt
    and lr_best.pt; imagefolder writes 8-bit PNGs, and its card says what the rounding cost. Every export has a
    card.json, and `ddfw eval` and `ddfw.load` read it again.
    """
    from ddfw.artifacts import exchange
    from ddfw.errors import OptionError

    out = run / "export" / form if out is None else out
    learned = exchange.load_set(run)
    try:
        card = exchange.export(learned, form, out)  # type: ignore[arg-type]
    except OptionError as error:
        raise click.UsageError(str(error)) from error
    if as_json:
        click.echo(json.dumps({**card, "folder": str(out)}, ensure_ascii=False))
        return
    count = len(card["sha256"])
    click.echo(f"written: {out}, {count} {'file' if count == 1 else 'files'} and card.json")
    if rounding := card["export"].get("rounding"):
        click.echo(
            f"8-bit pixels cost {rounding['root_mean_square']:.2g} (root mean square) in training space, at most "
            f"{rounding['largest']:.2g}; {100 * rounding['clipped_fraction']:.1f} % of the values were clipped"
        )
