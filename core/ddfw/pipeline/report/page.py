"""report.html: the page of a run, and one page of several. It is made of the files of the run directories alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from ddfw.artifacts import atomic
from ddfw.artifacts.run_dir import REPORT
from ddfw.pipeline.report import page_pictures as pictures
from ddfw.pipeline.report import page_tables as tables
from ddfw.pipeline.report.charts import Line, line_chart, spans_decades, swatch
from ddfw.pipeline.report.markup import Section, finite, html_table, page, paragraph, percent_text, text, whole
from ddfw.pipeline.report.page_source import PageSource, part, read_source, tables_of
from ddfw.pipeline.report.summary import subject_title

_STATES = {
    "finished": "finished",
    "running": "still running",
    "diverged": "diverged",
    "failed": "failed",
    "unfinished": "not finished",
    "damaged": "damaged",
}


def write_page(run: Path, out: Path | None = None) -> Path:
    """Writes the page of a run and returns its path.

    Args:
        run: the run directory; a run that diverged, failed or is unfinished has a page, too.
        out: the file; None: `report.html` in the run directory.

    Raises:
        DataError: `run` is no run directory.
    """
    path = run / REPORT if out is None else out
    content = _one(read_source(run))
    atomic.write_text(path, content)
    return path


def write_joint_page(runs: Sequence[Path], out: Path) -> Path:
    """Writes one page of several runs, with their curves together, and returns its path.

    Args:
        runs: the run directories.
        out: the file.

    Raises:
        DataError: one of them is no run directory.
    """
    atomic.write_text(out, _several([read_source(run) for run in runs]))
    return out


def _one(source: PageSource) -> str:
    parts = [
        Section(anchor="images", title="What was learned", content=pictures.gallery(source)),
        Section(anchor="stages", title="How it came about", content=pictures.stages(source)),
        Section(anchor="curves", title="Curves", content=_curves([source])),
        Section(anchor="results", title="Results", content=tables.results(source)),
        Section(anchor="classes", title="Classes", content=tables.classes(source)),
        Section(anchor="storage", title="Storage", content=tables.storage(source)),
        Section(anchor="settings", title="Settings", content=tables.settings(source)),
        Section(
            anchor="made", title="Where it was made", content=tables.components(source) + tables.provenance(source)
        ),
        Section(anchor="citations", title="To cite", content=tables.citation_list(source)),
    ]
    return page(f"{source.title} · {source.record.name}", _header(source), parts)


def _header(source: PageSource) -> str:
    run, row = part(source.config, "run"), source.own_row
    recipe, seed = run.get("recipe"), run.get("seed")
    head = f'<p class="kicker">A run of ddfw · <span class="path">{text(source.record.name)}</span></p>'
    head += f"<h1>{text(source.title)}</h1>"
    if row:
        n = finite(row.get("n"))
        networks = f"{whole(n)} networks" if n != 1 else "one network"
        words = f"test accuracy, mean ± standard deviation of {networks} trained on the learned set"
        head += (
            f'<p class="score"><strong>{percent_text(row.get("mean"), row.get("std"))}</strong><span>{words}</span></p>'
        )
    chips = [("state", _STATES.get(source.state, source.state)), ("recipe", recipe), ("seed", seed)]
    chips += [("images per class", part(source.card, "images").get("per_class"))]
    chips += [("outer steps", part(source.config, "outer").get("steps"))]
    items = "".join(f"<li><b>{text(name)}</b> {text(value)}</li>" for name, value in chips if value not in (None, ""))
    quick = "<li>quick: scaled down</li>" if run.get("quick") is True else ""
    return f'{head}<ul class="chips">{items}{quick}</ul>{_alerts(source)}'


def _alerts(source: PageSource) -> str:
    """What a reader has to know of a run that is no finished one."""
    done = f" after {source.record.steps_done} outer steps" if source.state != "damaged" else ""
    words = {
        "diverged": f"This run diverged{done}: its set is the best of the steps before, if one was kept.",
        "failed": f"This run failed{done}.",
        "unfinished": f"This run is not finished{done}: the same command goes on with it.",
        "running": f"This run was still going on{done} when the page was made: `ddfw report` makes it again.",
        "damaged": "Files of this run are damaged.",
    }.get(source.state)
    said = ([words] if words else []) + list(source.problems)
    reason = source.manifest.get("reason") if source.state in ("diverged", "failed") else None
    if reason:
        said.append(f"Reason: {reason}")
    return f'<div class="alert" role="note">{"".join(map(paragraph, said))}</div>' if said else ""


def _curves(sources: Sequence[PageSource], names: Sequence[str] = ("",)) -> str:
    """Charts of loss, step size and validation accuracy of one or several runs."""

    def lines(points: Callable[[PageSource], Mapping[int, float]], *, dots: bool = False) -> list[Line]:
        return [
            Line(
                name=name,
                points=tuple((float(x), y if math.isfinite(y) else None) for x, y in sorted(points(source).items())),
                dots=dots,
                marked=source.kept_step,
            )
            for name, source in zip(names, sources, strict=True)
        ]

    losses = lines(lambda s: s.curves.loss)
    skipped = sources[0].curves.skipped if len(sources) == 1 else ()
    charts = [
        line_chart("loss", "Matching loss", losses, log=spans_decades(losses), skipped=skipped),
        line_chart("rate", "Learned step size", lines(lambda s: s.curves.step_size)),
        line_chart(
            "validation",
            "Validation accuracy",
            lines(lambda s: {p.step: p.mean for p in s.curves.validation}, dots=True),
            tick=lambda value: f"{100 * value:.4g} %",
        ),
    ]
    if not any(charts):
        return paragraph(
            "There are no curves: metrics.jsonl is missing or holds no steps. Runs write it unless their configuration "
            "leaves out the observer that does.",
            "quiet",
        )
    marks = f" Short marks on its axis: {len(skipped)} skipped steps." if skipped else ""
    loss = "The loss is that of each outer step's own stretch of an expert, so it jumps." + marks
    return f'<div class="charts">{"".join(charts)}</div>{paragraph(loss, "quiet")}'


def _several(sources: Sequence[PageSource]) -> str:
    names = _names(sources)
    legend = "".join(
        f'<li>{swatch(index)}<a href="#run-{index}">{text(name)}</a></li>' for index, name in enumerate(names)
    )
    room = pictures.PICTURE_BYTES // (2 * len(sources))
    shown = []
    for index, (source, name) in enumerate(zip(sources, names, strict=True)):
        content = _alerts(source) + pictures.gallery(source, room) + pictures.stages(source, room)
        shown.append(Section(anchor=f"run-{index}", title=name, content=content))
    parts = [
        Section(anchor="curves", title="Curves", content=f'<ul class="legend">{legend}</ul>' + _curves(sources, names)),
        Section(anchor="results", title="Results", content=_all_results(sources, names)),
        Section(anchor="differences", title="Settings that differ", content=_differences(sources, names)),
    ]
    head = f'<p class="kicker">Runs of ddfw</p><h1>{len(sources)} runs side by side</h1>'
    return page(f"{len(sources)} runs: {', '.join(names)}", head, [*parts, *shown])


def _names(sources: Sequence[PageSource]) -> list[str]:
    """A name for each run: its directory's, with the folder around it where two are called alike."""
    names = [source.record.name for source in sources]
    return [
        name if names.count(name) == 1 else f"{source.path.parent.name}/{name}"
        for name, source in zip(names, sources, strict=True)
    ]


def _all_results(sources: Sequence[PageSource], names: Sequence[str]) -> str:
    subjects = list(dict.fromkeys(str(r.get("subject")) for s in sources for r in tables_of(s.summary.get("rows"))))
    rows = []
    for index, (source, name) in enumerate(zip(sources, names, strict=True)):
        found = {str(row.get("subject")): row for row in tables_of(source.summary.get("rows"))}
        cells = [_cell(part(found, subject)) for subject in subjects]
        floats = part(source.summary, "budget").get("strict")
        rows.append(
            [
                f'<span class="key">{swatch(index)}{text(name)}</span>',
                text(_STATES.get(source.state, "")),
                *cells,
                whole(floats),
            ]
        )
    columns = ("run", "state", *map(subject_title, subjects), "floats with labels")
    caption = "Test accuracy of networks trained on each set: mean ± standard deviation (n)"
    taken = any(row.get("source") for s in sources for row in tables_of(s.summary.get("rows")))
    note = paragraph("* measured by another run and taken from it", "note") if taken else ""
    return html_table(caption, columns, rows, numbers=range(2, len(columns))) + note


def _cell(row: Mapping[str, object]) -> str:
    if not row:
        return "–"
    return f"{percent_text(row.get('mean'), row.get('std'))} ({whole(row.get('n'))}){'*' if row.get('source') else ''}"


def _differences(sources: Sequence[PageSource], names: Sequence[str]) -> str:
    values = [dict(tables.leaves(source.config)) for source in sources]
    missing = object()
    rows = []
    for path in dict.fromkeys(key for found in values for key in found):
        cells = [found.get(path, missing) for found in values]
        if any(cell != cells[0] for cell in cells):
            rows.append([text(path), *("–" if cell is missing else text(tables.setting_text(cell)) for cell in cells)])
    if not rows:
        return paragraph("The runs have the same settings.", "quiet")
    return html_table("Settings that are not the same in all runs", ("setting", *names), rows)
