"""The page of claims against the comparison.json files that its figures come from."""

from __future__ import annotations

import json
import re
from pathlib import Path

import jsonschema
import pytest

from ddfw_plugins.commands.compare import files, tables
from ddfw_plugins.commands.compare.finished import FinishedRun, by_variant
from ddfw_plugins.commands.compare.measures import contrast_record

DOCS = Path(__file__).parents[4] / "docs"
STUDIES = {path.stem: path for path in sorted((DOCS / "claims").glob("*.json"))}
PAGE = (DOCS / "claims.md").read_text(encoding="utf-8")
#: Tables of the page, which docs/generate.py makes of the same files.
MADE = re.compile(r"<!-- (?:rows|went|answers) .*?<!-- end -->", re.DOTALL)


@pytest.mark.parametrize("study", STUDIES)
def test_a_published_study_is_whole_and_that_of_the_file_that_ships(study):
    """Broken: figures of a page would come from a file that was cut, edited, or made of another study."""
    record = json.loads(STUDIES[study].read_text(encoding="utf-8"))
    jsonschema.validate(record, json.loads((DOCS / "schema" / "comparison.json").read_text(encoding="utf-8")))
    comparison = files.read(study)
    assert not re.search(r'"(/|[A-Z]:\\)', STUDIES[study].read_text(encoding="utf-8")), "a path of a machine"
    assert record["comparison"] == study and record["summary"] == comparison.settings.summary
    assert {run["variant"] for run in record["runs"]} == {v.name for v in comparison.variants}
    for variant in comparison.variants:
        seeds = [run["seed"] for run in record["runs"] if run["variant"] == variant.name]
        assert sorted(seeds) == sorted(variant.seeds), variant.name


@pytest.mark.parametrize("study", STUDIES)
def test_answers_follow_from_the_runs(study):
    """Broken: a verdict would not be that of the runs beside it."""
    record = json.loads(STUDIES[study].read_text(encoding="utf-8"))
    comparison = files.read(study)
    runs = by_variant(
        [FinishedRun.from_json(run) for run in record["runs"]], [variant.name for variant in comparison.variants]
    )
    found = [
        {"name": name, **contrast_record(contrast, runs, comparison.settings)}
        for name, contrast in comparison.contrasts.items()
    ]
    assert found == record["contrasts"]


def test_every_figure_in_the_text_stands_in_a_study():
    """Broken: a sentence would keep a figure of an earlier run, or of nobody's.

    What the papers say stands in lines that begin with `>`, and is theirs.
    """
    known = set()
    for path in STUDIES.values():
        record = json.loads(path.read_text(encoding="utf-8"))
        shown = tables.markdown(record)
        known |= set(re.findall(r"\d[\d,]*\.?\d*", shown))
    text = MADE.sub("", PAGE)
    text = "\n".join(line for line in text.splitlines() if not line.startswith((">", "#", "ddfw ", "```", "![")))
    unknown = [number for number in re.findall(r"(?<![\w.-])\d+\.\d+", text) if number not in known]
    assert not unknown, f"stand in no study: {unknown}"


def test_every_study_that_ships_is_told_of():
    """Broken: a study would be ready to run, and nobody would know."""
    for name in files.shipped():
        if name.startswith(("mct-", "lss-", "floats-", "papers-")):
            assert name in PAGE or (name.startswith("papers-") and "papers-" in PAGE), name


def test_every_claim_has_a_verdict():
    """Broken: a claim of the papers would be passed over in silence."""
    for claim in (
        "Faster", "Steadier", "Smaller", "Continuous sampling",
        "More images for the same floats", "Subspaces", "Soft trained labels", "Progressive matching",
    ):  # fmt: skip
        section = re.search(rf"^### {claim}.*?(?=^##)", PAGE + "\n## ", re.DOTALL | re.MULTILINE)
        assert section, claim
        assert re.search(r"\*\*(Holds|Holds where|Does not hold|Not shown)", section[0]), claim
