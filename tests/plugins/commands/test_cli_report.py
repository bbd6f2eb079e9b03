"""`ddfw report`: the page again, one of several runs, and what it says where there is no run."""

from __future__ import annotations

import pytest


def test_the_page_of_a_run_is_made_in_its_directory_and_its_path_is_printed(ddfw, finished):
    """Broken: nobody could make the page of a run again, or find it."""
    page = finished.out / "report.html"
    said = ddfw("report", finished.out)
    assert (said.code, said.out.strip()) == (0, str(page))
    assert page.read_text(encoding="utf-8").startswith("<!doctype html>")


def test_the_page_goes_where_it_is_asked_to(ddfw, finished, here):
    """Broken: --out would be ignored."""
    said = ddfw("report", finished.out, "--out", here / "mine.html")
    assert (said.code, said.out.strip()) == (0, str(here / "mine.html"))
    assert (here / "mine.html").is_file()


def test_several_runs_make_one_page_here(ddfw, finished, here):
    """Broken: runs could not be looked at together, or a run's own page would be overwritten."""
    said = ddfw("report", finished.out, finished.out)
    assert (said.code, said.out.strip()) == (0, "report.html")
    assert "2 runs side by side" in (here / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("make", [lambda path: None, lambda path: path.mkdir(), lambda path: path.write_text("x")])
def test_what_is_no_run_exits_with_4_and_says_what_was_expected(ddfw, here, make):
    """Broken: a slip of the path would end in a traceback."""
    make(here / "other")
    said = ddfw("report", here / "other")
    assert said.code == 4
    assert "other" in said.err and "expected a run directory, which holds config.toml" in said.err


def test_a_file_in_no_folder_is_refused(ddfw, finished, here):
    """Broken: the page would fail to be written only after it was made."""
    said = ddfw("report", finished.out, "--out", here / "none" / "x.html")
    assert said.code == 2 and "there is no folder" in said.err
