"""`ddfw eval`."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ddfw.cli.completion_words import complete_baselines, complete_likes, complete_subjects
from ddfw.cli.output import console, say, say_json
from ddfw.cli.shared import (
    component_flags,
    cross_option,
    data_root_option,
    experts_dir_option,
    flag_tables,
    plugin_option,
    set_option,
    setting_option,
    trust_option,
)

if TYPE_CHECKING:
    from ddfw.pipeline.report.evaluation import Evaluation


@click.command("eval")
@click.argument("subject", metavar="RUN|SET|WORD", shell_complete=complete_subjects)
@click.option(
    "--like",
    metavar="RUN|RECIPE|FILE",
    shell_complete=complete_likes,
    help="Whose data, network and protocol; for a run, its own.",
)
@component_flags("data", "model", "augment", "executor")
@cross_option
@setting_option("--ipc", "budget.ipc", least=1, help="Budget of the real images, in images per class.")
@setting_option(
    "--baseline",
    "eval.baselines",
    multiple=True,
    metavar="NAME",
    shell_complete=complete_baselines,
    help="A row beside it (may be repeated).",
)
@click.option("--scores", is_flag=True, help="DD-Ranking's scores too, in fractions; trains on the full data.")
@setting_option("--networks", "eval.networks", least=2, help="How many fresh networks; the default is the run's own.")
@setting_option("--seed", "eval.seed", least=0, help="Seed of their initialisations; the default is the run's own.")
@click.option(
    "--lr", type=click.FloatRange(min=0, min_open=True), help="Learning rate; the default is the set's step size."
)
@experts_dir_option
@data_root_option
@set_option
@plugin_option
@trust_option
@click.option("--out", type=click.Path(path_type=Path), help="Write the figures to this JSON file.")
@click.option("--json", "as_json", is_flag=True, help="A JSON object on standard output.")
@click.option("-q", "--quiet", is_flag=True, help="No progress.")
def eval_command(
    subject: str,
    like: str | None,
    scores: bool,
    lr: float | None,
    experts_dir: Path,
    data_root: Path | None,
    assignments: tuple[str, ...],
    trust: bool,
    out: Path | None,
    as_json: bool,
    quiet: bool,
    **flags: Any,
) -> None:
    """Train fresh networks on a set of images and test them.

    The set is a RUN directory, an export of one, images*.pt with labels*.pt beside it (MTT, DATM), a folder of class
    folders with pictures, or one of the words random_real, kmeans_real, herding_real, kmeans_pixels, herding_pixels,
    full_data for real images that are selected here; kmeans_real and herding_real need an expert, which has to be in
    its store. Every file of a run is verified, and RUN/eval/again-….json written. Anything but a run needs --data or
    --like: a card says what its images are, and not what is done with them.

    \b
    ddfw eval runs/mine --cross mlp --cross alexnet --baseline random_real
    ddfw eval runs/mine/export/npz --like runs/mine
    ddfw eval images_best.pt --like mtt-cifar10-ipc1 --data-root ~/data
    ddfw eval random_real --data digits --ipc 5
    """
    if lr is not None and not math.isfinite(lr):
        raise click.UsageError(f"--lr wants a finite number, got {lr}")
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)  # asked now, and not after all training
    from ddfw.artifacts.atomic import write_json
    from ddfw.pipeline.evaluation.any_set import evaluate
    from ddfw.pipeline.report.evaluation import write_again

    found = evaluate(
        subject,
        like=like,
        flags=flag_tables(flags),
        assignments=assignments,
        lr=lr,
        scores=scores,
        data_root=data_root,
        experts_dir=experts_dir,
        quiet=quiet or as_json,
        trust=trust,
        **({} if quiet or as_json else {"say": lambda text: say(text, err=True)}),
    )
    written = out
    if out is not None:
        write_json(out, found.record())
    elif found.directory is not None and like is None:
        written, _ = write_again(found.directory, found)
    if as_json:
        say_json(found.record())
        return
    _show(found)
    if written is not None:
        say(f"written: {written}")


def _show(found: Evaluation) -> None:
    from ddfw.pipeline.report.summary import subject_title
    from ddfw.pipeline.report.tables import cross_table, percent

    for report in found.reports:
        say(
            f"{subject_title(report.subject)}, {report.images:,} images, "
            f"{report.floats['strict']:,} floats: test accuracy {percent(report.mean)} ± {percent(report.std)} % "
            f"(n = {report.n}, seed {report.eval_seed}, {report.net}, learning rate {report.lr:.3g})"
        )
        for note in report.notes:
            say(f"  note: {note}")
    if found.cross:
        console().print(cross_table([report for reports in found.cross.values() for report in reports]))
    for name, value in found.scores.items():
        if not name.startswith("accuracy_"):
            say(f"{name:<12} {value:.3f}")
