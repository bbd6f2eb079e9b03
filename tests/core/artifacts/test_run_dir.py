"""A run's directory belongs to one run: strangers are refused, and an aborted start does not lock its owner out."""

from __future__ import annotations

import pytest

from ddfw.artifacts import atomic
from ddfw.artifacts.run_dir import RunDirectory
from ddfw.errors import DataError, DirectoryInUseError


def test_a_fresh_directory_gets_its_configuration(tmp_path):
    """Broken: a run could not be repeated from its directory."""
    directory = RunDirectory(tmp_path / "a" / "b")
    with directory.claimed("x = 1\n"):
        assert directory.config.read_text() == "x = 1\n"
        assert directory.finished("x = 1\n") is None


def test_the_same_run_may_come_back_and_another_may_not(tmp_path):
    """Broken: results of two configurations would mix in one directory."""
    directory = RunDirectory(tmp_path / "run")
    with directory.claimed("x = 1\n"):
        pass
    with directory.claimed("x = 1\n"):
        pass
    with directory.claimed("x = 2\n"):
        pass  # nothing was learned there yet, so a corrected configuration may take its place
    for foreign in ("notes.txt", "synthetic", "summary.json"):
        (directory.path / foreign).touch()
        with pytest.raises(DirectoryInUseError, match="another configuration"), directory.claimed("x = 3\n"):
            pass
        (directory.path / foreign).unlink()
    (directory.path / "synthetic").mkdir()
    with pytest.raises(DirectoryInUseError, match="another configuration"), directory.claimed("x = 3\n"):
        pass
    assert directory.config.read_text() == "x = 2\n"


def test_a_directory_with_other_things_is_refused_untouched(tmp_path):
    """Broken: `--out ~/documents` would fill a user's folder with files."""
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(DirectoryInUseError, match="not empty"), RunDirectory(tmp_path).claimed("x = 1\n"):
        pass
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


def test_an_empty_directory_may_be_taken(tmp_path):
    """Broken: `mkdir out; ddfw run --out out` would be refused."""
    with RunDirectory(tmp_path).claimed("x = 1\n"):
        pass
    assert (tmp_path / "config.toml").is_file()


def test_a_file_is_no_directory(tmp_path):
    """Broken: `--out` with a file's name would end as an internal error."""
    path = tmp_path / "file"
    path.write_text("mine")
    with pytest.raises(DirectoryInUseError, match="is a file"), RunDirectory(path).claimed("x = 1\n"):
        pass
    assert path.read_text() == "mine"


def test_two_at_once_are_refused(tmp_path):
    """Broken: the same command started twice would write the same files twice at the same time."""
    directory = RunDirectory(tmp_path / "run")
    with (
        directory.claimed("x = 1\n"),
        pytest.raises(DirectoryInUseError, match="in use"),
        directory.claimed("x = 1\n"),
    ):
        pass


def test_a_start_that_failed_on_a_full_disk_can_be_repeated(tmp_path, monkeypatch):
    """Broken: after the disk was freed, the same command would call its own directory somebody else's."""
    directory = RunDirectory(tmp_path / "run")
    with monkeypatch.context() as broken:

        def full(path: object, data: bytes) -> str:
            raise OSError(28, "No space left on device")

        broken.setattr(atomic, "write_bytes", full)
        with pytest.raises(OSError, match="No space"), directory.claimed("x = 1\n"):
            pass
    with directory.claimed("x = 1\n"):
        assert directory.config.read_text() == "x = 1\n"


def test_a_garbled_summary_is_a_data_error(tmp_path):
    """Broken: a damaged summary would be printed as a finished run, or crash."""
    (tmp_path / "config.toml").write_text("x = 1\n")
    (tmp_path / "summary.json").write_text("{")
    (tmp_path / "manifest.json").write_text('{"schema": 1, "outputs": {}}')
    with pytest.raises(DataError, match=r"summary\.json"):
        RunDirectory(tmp_path).finished("x = 1\n")
    for garbled in ("[]", '{"schema": 1, "outputs": 3}', '{"outputs": {}}', "{}", "{"):
        (tmp_path / "manifest.json").write_text(garbled)
        with pytest.raises(DataError, match=r"manifest\.json"):
            RunDirectory(tmp_path).finished("x = 1\n")


def test_a_config_file_of_another_program_is_never_written_over(tmp_path):
    """Broken: a folder that happens to hold a config.toml would lose it."""
    (tmp_path / "config.toml").write_text("theirs = true\n")
    with pytest.raises(DirectoryInUseError), RunDirectory(tmp_path).claimed("x = 1\n"):
        pass
    assert (tmp_path / "config.toml").read_text() == "theirs = true\n"
    assert [p.name for p in tmp_path.iterdir()] == ["config.toml"]
