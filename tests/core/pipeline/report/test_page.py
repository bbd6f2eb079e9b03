"""The page of a run: what it shows, what it escapes, how large it gets, and that it loads nothing."""

from __future__ import annotations

import base64
import hashlib
import io
import itertools
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ddfw.artifacts import snapshots
from ddfw.artifacts.atomic import read_json, write_json
from ddfw.errors import DataError
from ddfw.pipeline.report.page import write_joint_page, write_page

HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "right\u202eleft",
    "two\nlines\x00",
    "' onload='x",
]
LARGEST = 5_000_000
VOID = {"meta", "link", "img", "br", "input", "hr"}


class Page(HTMLParser):
    """Collects a page's elements, attributes and text; fails where elements are not closed in their order."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.words: list[str] = []
        self._open: list[str] = []
        self.feed(self.source)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        if self._open and self._open[-1] != "style":
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def of(self, tag: str) -> list[dict[str, str]]:
        return [attrs for name, attrs in self.elements if name == tag]


def test_the_page_shows_what_the_files_say(made, tmp_path):
    """Broken: a figure of the run would be missing from its page, or wrong."""
    text = Page(write_page(made(tmp_path / "run", ["cat", "dog", "bird"]))).text
    for words in (
        "squares · plain · path · fixed",
        "62.5 ± 1.2 %",
        "random real images 31.0 ± 1.2 % 3 6 384 480 0.02 [1] [2]",
        "[1] a note & more",
        "measured by another run: runs/other",
        "distilled 55.0 ± 1.2 %",
        "cat 75.0 % 40 dog (25.0 %)",
        "from 100 at step 1 to 2.5 at step 40; least 2.5 at step 40, most 100 at step 1.",
        "1 skipped steps",
        "75 % cat",
        "25 % dog",
        "start, step 0",
        "on the way, step 20",
        "real images",
        "500 floats",
        "rank 4 --set",
        'name "squares" file <mine>.toml',
        "seed 3 default",
        "mine:plain",
        "ab" * 32,
        "@misc{one, title = {A <b>title</b>} }",
    ):
        assert words in text, words


def test_pictures_are_the_images_of_the_set(made, tmp_path):
    """Broken: the page would show other images than were learned, or the wrong way up."""
    run = made(tmp_path / "run", ["cat", "dog"], per_class=1)
    pixels = snapshots.read_snapshot(run, 0).pixels
    page = Page(write_page(run))
    first, second = (i for i in page.of("img") if i["alt"].startswith("learned image 1 of class"))
    assert "class dog" in second["alt"]
    data = base64.b64decode(first["src"].removeprefix("data:image/png;base64,"))
    shown = np.asarray(Image.open(io.BytesIO(data)))
    assert np.array_equal(shown, (pixels[0].permute(1, 2, 0) * 255).round().byte().numpy())


def test_hostile_names_are_shown_as_text(made, tmp_path):
    """Broken: a data set could run code, or reorder the text, in the browser of whoever opens the page."""
    run = made(tmp_path / "run", HOSTILE)
    manifest = read_json(run / "manifest.json")
    write_json(run / "manifest.json", {**manifest, "machine": {"<b>": "</dd><script>x</script>"}, "experts": "\u2066x"})
    page = Page(write_page(run))
    assert page.of("script") == []
    assert all(not name.startswith("on") for _, attrs in page.elements for name in attrs)
    assert "<script>alert(1)</script>" in page.text
    assert '"><img src=x onerror=alert(1)>' in page.text
    assert "right\\u202eleft" in page.text
    assert "two\\nlines\\u0000" in page.text
    assert not set(page.source) & {"\u202e", "\u2066", "\x00"}


def test_nothing_is_loaded_and_the_policy_forbids_it(made, tmp_path):
    """Broken: opening a page would tell somebody so, or a style would not be applied."""
    page = Page(write_page(made(tmp_path / "run", ["cat", "dog"])))
    for tag, attrs in page.elements:
        for name in ("src", "href", "srcset", "data", "action", "poster", "xlink:href"):
            assert attrs.get(name, "#").startswith(("#", "data:")), (tag, attrs)
        assert "style" not in attrs
    policy = next(m["content"] for m in page.of("meta") if m.get("http-equiv") == "Content-Security-Policy")
    style = re.search("<style>(.*)</style>", page.source, re.DOTALL)[1]
    assert "url(" not in style and "@import" not in style
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert policy.startswith("default-src 'none'; img-src data:; ") and f"style-src 'sha256-{digest}'" in policy
    assert "script-src" not in policy


def test_the_page_can_be_read_by_a_screen_reader(made, tmp_path):
    """Broken: pictures without words, headings that skip a level, or an id that two elements have."""
    page = Page(write_page(made(tmp_path / "run", ["cat", "dog"])))
    assert all(image["alt"] for image in page.of("img"))
    ids = [attrs["id"] for _, attrs in page.elements if "id" in attrs]
    assert len(ids) == len(set(ids))
    labels = [word for _, attrs in page.elements for word in attrs.get("aria-labelledby", "").split()]
    assert set(labels) <= set(ids)
    assert {a["href"].removeprefix("#") for a in page.of("a")} <= set(ids)
    levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch("h[1-6]", tag)]
    assert levels.count(1) == 1 and all(b - a <= 1 for a, b in itertools.pairwise(levels))
    assert page.of("html")[0]["lang"] == "en"
    scrolled = [attrs for attrs in page.of("div") if attrs.get("class") == "scroll"]
    assert len(scrolled) >= 4 and all(box["tabindex"] == "0" and box["aria-label"] for box in scrolled)


@pytest.mark.parametrize(("count", "shape"), [(200, (3, 32, 32)), (40, (3, 160, 160))])
def test_a_large_set_still_makes_a_small_page_that_says_what_is_left_out(made, tmp_path, count, shape):
    """Broken: the page of a large run could not be opened or mailed."""
    run = made(tmp_path / "run", [f"class {i}" for i in range(count)], per_class=16 if count == 200 else 2, shape=shape)
    path = write_page(run)
    assert path.stat().st_size < LARGEST
    words = "the first 100 of 200 classes" if count == 200 else "Pictures are reduced to 1/"
    assert words in Page(path).text


def test_a_large_matrix_is_told_by_its_most_frequent_confusions(made, tmp_path):
    """Broken: nobody could read the matrix of many classes."""
    run = made(tmp_path / "run", [f"c{i}" for i in range(25)], per_class=1)
    evaluation = read_json(run / "eval" / "distilled.json")
    evaluation["confusion"][7][3] = 40
    write_json(run / "eval" / "distilled.json", evaluation)
    assert "true class taken for times share of the class c7 c3 40 50.0 %" in Page(write_page(run)).text


def test_the_page_made_again_is_the_same_and_its_own_file_changes_nothing(made, tmp_path):
    """Broken: the page would hold something that is not in the directory's files."""
    run = made(tmp_path / "run", ["cat", "dog"])
    first = write_page(run).read_bytes()
    assert write_page(run).read_bytes() == first
    assert write_page(run, tmp_path / "elsewhere.html").read_bytes() == first


@pytest.mark.parametrize(
    "name",
    [
        *("manifest.json", "summary.json", "metrics.jsonl", "eval/distilled.json", "synthetic/card.json"),
        *("synthetic/images.safetensors", "steps/step-000000.safetensors", "steps/real.safetensors"),
    ],
)
@pytest.mark.parametrize("content", [None, b"", b"{", b"[1]", b"\xff\xfe\x00", b'{"rows": 3, "confusion": [[1, 2]]}'])
def test_a_missing_or_damaged_file_leaves_only_its_part_empty(made, tmp_path, name, content):
    """Broken: a run whose files suffered would have no page."""
    run = made(tmp_path / "run", ["cat", "dog"], per_class=1)
    (run / name).unlink()
    if content is not None:
        (run / name).write_bytes(content)
    text = Page(write_page(run)).text
    assert "squares · plain · path · fixed" in text
    if name == "metrics.jsonl":
        assert "There are no curves: metrics.jsonl" in text
    if name == "eval/distilled.json":
        assert "There are no figures of single classes" in text
    if name == "synthetic/images.safetensors":
        assert "Each image" in text or "Below each image" in text  # the newest stored step instead


def test_values_of_a_wrong_type_leave_their_cells_empty(made, tmp_path):
    """Broken: a file that another program edited would have no page."""
    run = made(tmp_path / "run", ["cat", "dog"], per_class=1)
    summary = read_json(run / "summary.json")
    for key in ("mean", "std", "n", "floats", "images", "lr", "notes"):
        summary["rows"][0][key] = {"x": [None]}
    write_json(run / "summary.json", {**summary, "seconds": {"a": "b"}, "device": {"a": [1]}, "trajectories": {}})
    manifest = {"components": [1, {"kind": 2}], "origins": 3, "versions": [], "seeds": {"run": None}}
    write_json(run / "manifest.json", manifest)
    assert "distilled –" in Page(write_page(run)).text


def test_cut_lines_of_metrics_are_passed_over(made, tmp_path):
    """Broken: a run that was killed while it wrote would lose its curves."""
    run = made(tmp_path / "run", ["cat", "dog"], per_class=1)
    with (run / "metrics.jsonl").open("ab") as file:
        file.write(b'not json\n{"event": "step", "step": "x"}\n\xff\n{"event": "step", "st')
    assert "from 100 at step 1 to 2.5 at step 40" in Page(write_page(run)).text


def test_steps_that_were_done_again_are_counted_once(made, tmp_path):
    """Broken: the curves of a resumed run would show steps that are void."""
    run = made(tmp_path / "run", ["cat", "dog"], per_class=1)
    more = [
        {"event": "run_started", "steps": 40, "first_step": 38},
        {"event": "step", "step": 39, "loss": 9, "step_size": 1},
    ]
    with (run / "metrics.jsonl").open("a") as file:
        file.writelines(json.dumps(event) + "\n" for event in more)
    assert "from 100 at step 1 to 9 at step 39" in Page(write_page(run)).text


@pytest.mark.parametrize("status", ["diverged", "failed"])
def test_a_run_that_ended_badly_has_a_page_that_says_so(made, tmp_path, status):
    """Broken: who looks at the page of such a run would not learn what happened."""
    run = made(tmp_path / "run", ["cat", "dog"], per_class=1)
    for name in ("summary.json", "eval/distilled.json"):
        (run / name).unlink()
    shutil.rmtree(run / "synthetic")
    write_json(run / "manifest.json", {"schema": 1, "status": status, "reason": "the loss is <nan>"})
    text = Page(write_page(run)).text
    assert f"state {status}" in text and "Reason: the loss is <nan>" in text
    assert f"This run {status} after 40 outer steps" in text
    assert "Shown: " not in text and "This run has no results" in text


def test_a_directory_with_a_configuration_alone_has_a_page(tmp_path):
    """Broken: a run that has just started could not be looked at."""
    (tmp_path / "config.toml").write_text('[data]\nname = "x"\n')
    text = Page(write_page(tmp_path)).text
    assert "This run is not finished" in text and "No learned images are stored here" in text
    assert "No images of the start, the middle and the end" in text


def test_no_run_directory_is_refused_with_what_was_expected(tmp_path):
    """Broken: a slip of the path would write a page of nothing somewhere."""
    with pytest.raises(DataError, match=r"expected a run directory, which holds config\.toml"):
        write_page(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_several_runs_share_their_curves_and_say_how_they_differ(made, tmp_path):
    """Broken: two runs could not be compared on one page."""
    config = (made(tmp_path / "one", ["cat", "dog"]) / "config.toml").read_text()
    other = config.replace("rank = 4", "rank = 9").replace('name = "plain"', 'name = "<i>"')
    runs = [tmp_path / "one", made(tmp_path / "two", ["cat", "dog"], config=other)]
    page = Page(write_joint_page(runs, tmp_path / "both.html"))
    assert 'param.name "plain" "<i>"' in page.text
    assert "param.rank 4 9" in page.text and "outer.steps" not in page.text
    curves = [a["class"] for a in page.of("polyline") if a["points"].count(",") > 2]
    assert {"line c0", "line c1"} <= set(curves)
    assert "one: from 100 at step 1" in page.text and "two: from 100 at step 1" in page.text
    assert [image["alt"] for image in page.of("img")].count(
        "learned image 1 of class cat, label 75 % cat, 25 % dog"
    ) == 2


def test_a_page_of_many_runs_stays_small(made, tmp_path):
    """Broken: pictures of many runs together would make the page too large."""
    first = made(tmp_path / "0", [str(i) for i in range(30)], per_class=10, shape=(3, 32, 32))
    runs = [first, *(tmp_path / str(i) for i in range(1, 7))]
    for run in runs[1:]:
        shutil.copytree(first, run)
    assert write_joint_page(runs, tmp_path / "all.html").stat().st_size < LARGEST


#: Hosts that Chromium asks by itself, whatever it shows.
BROWSERS_OWN = ("google.com", "googleapis.com", "gvt1.com")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
def test_chromium_has_nothing_to_complain_of_and_asks_the_network_for_nothing(made, tmp_path):
    """Broken: the policy would block the page's own style, or the page would not be self-contained."""
    path = write_page(made(tmp_path / "run", HOSTILE))
    log = tmp_path / "net.json"
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    command += ["--disable-background-networking", "--disable-component-update", "--enable-logging=stderr", "--v=0"]
    done = subprocess.run(
        [*command, f"--log-net-log={log}", "--dump-dom", path.as_uri()], capture_output=True, text=True, timeout=120
    )
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in done.stdout
    assert [line for line in done.stderr.splitlines() if "CONSOLE" in line] == []
    asked = set(re.findall(r'"url":\s*"https?://([^/"]+)', log.read_text()))
    assert {host for host in asked if not host.endswith(BROWSERS_OWN)} == set()
