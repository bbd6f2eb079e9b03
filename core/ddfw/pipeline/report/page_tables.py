"""Tables of a page: results, single classes, storage, settings with their origins, and where a run was made."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ddfw.config.run_config import COMPONENT_TABLES
from ddfw.contracts.records import QUICK_NOTE
from ddfw.pipeline.report.charts import bar, heat_map
from ddfw.pipeline.report.markup import (
    bytes_text,
    code_text,
    facts,
    figure,
    finite,
    folded,
    html_table,
    paragraph,
    percent_text,
    text,
    whole,
)
from ddfw.pipeline.report.page_pictures import name_of
from ddfw.pipeline.report.page_source import PageSource, entries, part, tables_of
from ddfw.pipeline.report.summary import subject_title

#: With more classes the matrix is a small picture, and the most frequent confusions are a table.
MAX_FIGURES = 20
#: Rows of the tables of classes and of confusions.
MAX_CLASS_ROWS, MAX_PAIRS = 200, 20
#: Values of a setting in a cell.
_MISSING = "–"


def results(source: PageSource) -> str:
    """The table of results with its notes, and that of other networks."""
    rows = tables_of(source.summary.get("rows"))
    if not rows:
        return paragraph("This run has no results: its networks were not evaluated on the test split.", "quiet")
    marks: dict[str, str] = {}
    columns = ("trained on", "test accuracy", "n", "images", "floats", "with labels", "learning rate", "notes")
    lines = [_result(row, marks) for row in rows]
    found = html_table(
        "Test accuracy of networks trained on each set: mean ± standard deviation over n",
        columns,
        lines,
        numbers=range(1, 7),
    )
    notes = "".join(f"<li>{mark} {text(note)}</li>" for note, mark in marks.items())
    notes = f'<ul class="notes">{notes}</ul>' if notes else ""
    return found + notes + _across(source) + paragraph(" ".join(_remarks(source)), "quiet")


def _result(row: Mapping[str, Any], marks: dict[str, str]) -> list[str]:
    subject = str(row.get("subject", _MISSING))
    said = [str(note) for note in entries(row.get("notes")) if note != QUICK_NOTE]
    if row.get("source"):
        said.append(f"measured by another run: {row['source']}")
    mark = " ".join(marks.setdefault(note, f"[{len(marks) + 1}]") for note in said)
    floats, own = part(row, "floats"), subject == "distilled"
    name = text(subject_title(subject))
    return [
        f'<span class="own">{name}</span>' if own else name,
        percent_text(row.get("mean"), row.get("std")),
        whole(row.get("n")),
        whole(row.get("images")),
        whole(floats.get("pixels")),
        whole(floats.get("strict")),
        figure(row.get("lr")),
        mark,
    ]


def _across(source: PageSource) -> str:
    """Test accuracy on the networks of [cross], a column each."""
    rows = tables_of(source.summary.get("cross"))
    nets = list(dict.fromkeys(str(row.get("net", "")) for row in rows))
    lines = []
    for subject in dict.fromkeys(str(row.get("subject", "")) for row in rows):
        cells = {str(row.get("net", "")): row for row in rows if str(row.get("subject", "")) == subject}
        figures = [percent_text(part(cells, net).get("mean"), part(cells, net).get("std")) for net in nets]
        lines.append([text(subject_title(subject)), *figures])
    failed = [
        paragraph(
            f"{d.get('net')} could not be trained on {subject_title(str(d.get('subject')))}: {d.get('reason')}", "note"
        )
        for d in tables_of(source.summary.get("cross_diverged"))
    ]
    found = html_table("Test accuracy of other networks", ("trained on", *nets), lines, numbers=range(1, len(nets) + 1))
    return (f"<h3>Other networks</h3>{found}" if lines else "") + "".join(failed)


def _remarks(source: PageSource) -> Iterator[str]:
    """What has to be known to read the table."""
    summary = source.summary
    reads, step = finite(summary.get("test_reads")), finite(summary.get("selected_step"))
    if step is not None:
        chosen = f", {percent_text(summary.get('selected_accuracy'))} there" if summary.get("selected_accuracy") else ""
        yield f"Step {step:,.0f} was selected on the validation split{chosen}."
        if step == 0 and finite(summary.get("outer_steps")):
            yield "No outer step did better there than the initial set, which is what was kept."
    if reads is not None:
        yield f"The test split was read {'once' if reads == 1 else f'{reads:,.0f} times'}."
    if earlier := [whole(step) for step in entries(summary.get("extended_from"))]:
        yield f"The run was extended from step {', '.join(earlier)} after its test split had been read."
    if summary.get("quick"):
        yield "A quick run: scaled down by --quick, its figures are not those of its recipe."


def classes(source: PageSource) -> str:
    """Accuracy of each class, and what was taken for what, of networks that were trained on the learned set."""
    matrix = source.confusion
    if matrix is None:
        words = "was not evaluated" if not source.own_row else "did not keep which classes its networks predicted"
        return paragraph(f"There are no figures of single classes: the run {words}.", "quiet")
    names = [name_of(source.class_names, label) for label in range(len(matrix))]
    rows = []
    for label, row in enumerate(matrix[:MAX_CLASS_ROWS]):
        total = sum(row)
        wrong = max((count, -j) for j, count in enumerate(row) if j != label) if len(row) > 1 else (0, 0)
        taken = f"{text(names[-wrong[1]], 60)} ({100 * wrong[0] / total:.1f} %)" if wrong[0] else _MISSING
        share = row[label] / total if total else None
        cells = [percent_text(share), bar(share or 0.0), whole(total), taken]
        rows.append([text(names[label], 60), *cells])
    columns = ("class", "accuracy", "", "predictions", "most often taken for")
    per_class = html_table("Accuracy of each class, all networks together", columns, rows, numbers=(1, 3))
    if len(matrix) > MAX_CLASS_ROWS:
        per_class += paragraph(f"Shown: the first {MAX_CLASS_ROWS} of {len(matrix)} classes.", "quiet")
    if len(matrix) > MAX_FIGURES:
        per_class = folded(f"Accuracy of each of {len(matrix)} classes", per_class)
        return _pairs(matrix, names) + per_class + _heat(matrix, names)
    return per_class + _heat(matrix, names)


def _heat(matrix: Sequence[Sequence[int]], names: Sequence[str]) -> str:
    small = len(matrix) <= MAX_FIGURES
    if len(matrix) > 300:
        return ""
    hits, total = sum(row[i] for i, row in enumerate(matrix)), sum(map(sum, matrix)) or 1
    title = f"Confusion matrix of {len(matrix)} classes; {100 * hits / total:.1f} % lie on its diagonal"
    words = "Rows: the true class. Columns: what networks took its images for. Shades: the share of the row."
    heat = heat_map(title, matrix, names, figures=small)
    scroll = f'<div class="scroll" tabindex="0" role="region" aria-label="Confusion matrix">{heat}</div>'
    return f"<h3>Confusion matrix</h3>{paragraph(words, 'quiet')}{scroll}"


def _pairs(matrix: Sequence[Sequence[int]], names: Sequence[str]) -> str:
    found = [(c / sum(row), c, i, j) for i, row in enumerate(matrix) for j, c in enumerate(row) if i != j and c]
    found.sort(key=lambda pair: (-pair[1], -pair[0], pair[2], pair[3]))
    rows = [
        [text(names[i], 60), text(names[j], 60), whole(count), percent_text(share)]
        for share, count, i, j in found[:MAX_PAIRS]
    ]
    columns = ("true class", "taken for", "times", "share of the class")
    return (
        html_table("The most frequent confusions, all networks together", columns, rows, numbers=(2, 3)) if rows else ""
    )


def storage(source: PageSource) -> str:
    """What the set stores, in floats and in bytes, and what the trajectories took."""
    summary, card = source.summary, source.card
    floats = part(summary, "budget") or part(card, "floats")
    paid = {"strict": "labels are paid from it", "pixels": "labels are free"}.get(str(floats.get("accounting")), "")
    pairs = [
        ("budget", f"{whole(floats.get('floats', floats.get('budget')))} floats{f' ({paid})' if paid else ''}"),
        ("stored, with labels", f"{whole(floats.get('strict'))} floats"),
        ("stored, without labels", f"{whole(floats.get('pixels'))} floats"),
    ]
    pairs = [(name, value) for name, value in pairs if not value.startswith(_MISSING)]
    if floats.get("over_budget") is True:
        pairs.append(("over the budget", "yes"))
    for path in sorted((source.path / "synthetic").glob("*.safetensors")):
        pairs.append((f"synthetic/{path.name}", bytes_text(path.stat().st_size)))
    kept = part(summary, "trajectories") or part(card, "trajectories")
    words = {"source_bytes": "trajectories, as they are matched", "checkpoint_bytes": "trajectories, as checkpoints"}
    pairs += [(title, bytes_text(kept[key])) for key, title in words.items() if key in kept]
    if "experts" in kept:
        pairs.append(("experts", whole(kept["experts"])))
    if entries(part(card, "images").get("shape")):
        shape = " × ".join(whole(size) for size in part(card, "images")["shape"])
        pairs.append(("images", f"{whole(part(card, 'images').get('count'))}, each {shape}"))
    return facts((name, value) for name, value in pairs)


def leaves(tables: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    """The dotted path and the value of each setting."""
    for key, value in tables.items():
        here = f"{path}.{key}" if path else str(key)
        if isinstance(value, Mapping):
            yield from leaves(value, here)
        else:
            yield here, value


def origin_of(path: str, origins: Mapping[str, Any]) -> str:
    """The layer that set a value: its own entry or that of a table around it; "default" where there is none."""
    while path:
        if path in origins:
            return str(origins[path])
        path = path.rpartition(".")[0]
    return "default"


def setting_text(value: object) -> str:
    """A value as it stands in a configuration."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(setting_text, value))}]"
    return f'"{value}"' if isinstance(value, str) else str(value)


def settings(source: PageSource) -> str:
    """The configuration by table, each value with the layer that it comes from."""
    origins = part(source.manifest, "origins")
    known = "origins" in source.manifest
    tables = {name: value for name, value in source.config.items() if isinstance(value, Mapping) and value}
    if not tables:
        return paragraph("config.toml is missing or cannot be read.", "quiet")
    found = []
    for name, content in tables.items():
        rows = []
        for path, value in leaves(content, name):
            origin = origin_of(path, origins) if known else _MISSING
            made = f'<span class="set">{text(origin)}</span>' if origin not in ("default", _MISSING) else text(origin)
            rows.append([text(path.partition(".")[2]), text(setting_text(value)), made])
        changed = sum(not row[2].startswith("default") for row in rows) if known else 0
        own = part(content).get("name")
        title = f"[{name}]" + (f" {own}" if isinstance(own, str) else "")
        count = f" · {changed} set, {len(rows) - changed} default" if known else ""
        found.append(
            folded(
                title + count, html_table(f"Settings of [{name}]", ("setting", "value", "from"), rows, name="settings")
            )
        )
    said = "" if known else paragraph("This run did not keep where its settings come from.", "quiet")
    return said + "".join(found)


def components(source: PageSource) -> str:
    """The components that the run uses, with the plugins that offer them."""
    used = tables_of(source.manifest.get("components"))
    if used:
        rows = [
            [
                text(c.get("kind", _MISSING)),
                text(c.get("name", _MISSING)),
                text(c.get("plugin") or "no plugin: handed over by the caller"),
                text(f"{c.get('distribution', '')} {c.get('version', '')}".strip() or _MISSING),
            ]
            for c in used
        ]
        return html_table("Components of this run", ("kind", "component", "plugin", "package"), rows)
    names = [(kind, part(source.config, kind).get("name")) for kind in COMPONENT_TABLES]
    rows = [[text(kind), text(name)] for kind, name in names if name is not None]
    words = "This run did not keep which plugins its components came from."
    return (html_table("Components of this run", ("kind", "component"), rows) if rows else "") + paragraph(
        words, "quiet"
    )


def provenance(source: PageSource) -> str:
    """Versions, machine, device, seeds, seconds, reads of the test split, and hashes of the data."""
    manifest, summary = source.manifest, source.summary
    device = {**part(manifest, "device"), **part(summary, "device")}
    pairs = [(str(name), text(version)) for name, version in part(manifest, "versions").items()]
    pairs += [(str(name), text(value)) for name, value in part(manifest, "machine").items()]
    pairs += [(f"device: {name}", _device_text(name, value)) for name, value in device.items()]
    pairs += [(f"seed: {name}", text(_joined(value))) for name, value in part(manifest, "seeds").items()]
    spent = part(summary, "seconds") or part(manifest, "seconds")
    times = [(str(name), value) for name, value in spent.items() if finite(value) is not None]
    pairs += [(f"seconds: {name}", f"{value:,.1f}") for name, value in times]
    if times:
        pairs.append(("seconds: all", f"{sum(value for _, value in times):,.1f}"))
    for key, title in (
        ("test_reads", "reads of the test split"),
        ("experts", "experts"),
        ("resumed_from", "resumed from"),
    ):
        if key in manifest:
            pairs.append((title, text(_joined(manifest[key]))))
    for key, title in (("data_sha256", "sha256 of the data"), ("test_sha256", "sha256 of the test split")):
        if key in manifest:
            pairs.append((title, f"<code>{text(manifest[key])}</code>"))
    for key, title in (("origin", "source of the data"), ("licence", "licence of the data")):
        if value := part(source.card, "source_data").get(key):
            pairs.append((title, text(value)))
    return facts(pairs) if pairs else paragraph("manifest.json is missing or cannot be read.", "quiet")


def _device_text(name: str, value: object) -> str:
    known = name in ("graph_bytes", "memory_seen") and finite(value) is not None
    return bytes_text(value) if known else text(_joined(value))


def _joined(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, Sequence) and not isinstance(value, str) else str(value)


def citation_list(source: PageSource) -> str:
    """BibTeX of what the run used."""
    found = [str(entry) for entry in entries(source.card.get("citations"))]
    return f'<pre tabindex="0">{code_text(chr(10).join(found), 40_000)}</pre>' if found else ""
