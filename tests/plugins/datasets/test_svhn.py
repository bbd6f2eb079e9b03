"""`svhn`: the two MATLAB files, after their checksums."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.io import savemat

from ddfw import DataError
from ddfw.cli.main import invoke
from ddfw.testing import check_data
from ddfw_plugins.datasets.svhn import Svhn


def test_it_keeps_the_contract_and_its_pixels(tiny, official_files):
    """Broken: rows and colours would be exchanged, or the digit 0 would be a class of its own."""
    root = tiny("svhn")
    check_data(Svhn(), root)
    test = Svhn().load(root).test.read()
    assert np.array_equal(test.images.numpy(), official_files.pixels(20, 3, 32, 32, seed=1))
    assert test.labels.tolist() == [i % 10 for i in range(20)]


def test_the_files_may_lie_in_a_folder_of_their_own(tiny):
    """Broken: a data root that many data sets share would be untidy."""
    root = tiny("svhn")
    (root / "svhn").mkdir()
    for name in ("train_32x32.mat", "test_32x32.mat"):
        (root / name).rename(root / "svhn" / name)
    assert Svhn().load(root).spec.shape == (3, 32, 32)


@pytest.mark.parametrize("damage", ["missing", "truncated", "swapped", "folder"])
def test_the_command_line_says_what_is_wrong_in_one_line(tiny, damage, capsys):
    """Broken: a damaged file would reach a reader that was not made for hostile files."""
    root = tiny("svhn")
    path = root / "train_32x32.mat"
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:-100])
    elif damage == "swapped":
        (root / "test_32x32.mat").replace(path)
    else:
        path.unlink()
        if damage == "folder":
            path.mkdir()
    assert invoke(["run", "--data", "svhn", "--data-root", str(root), "--dry-run"]) == 4
    said = capsys.readouterr().err.strip()
    assert str(path) in said and "--download" in said and len(said.splitlines()) == 1


GOOD = {"X": np.zeros((32, 32, 3, 4), np.uint8), "y": np.array([[1], [2], [3], [10]], np.uint8)}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"X": GOOD["X"]}, "not a readable MATLAB file"),
        ({**GOOD, "X": GOOD["X"].astype(float)}, "32×32×3"),
        ({**GOOD, "X": GOOD["X"][..., 0]}, "32×32×3"),
        ({**GOOD, "y": GOOD["y"][:3]}, "one label for each image"),
        ({**GOOD, "y": GOOD["y"] * 0}, "besides 1 to 10"),
        ({**GOOD, "y": GOOD["y"] + 1}, "besides 1 to 10"),
        ({**GOOD, "y": "abcd"}, "one label for each image"),
        (None, "not a readable MATLAB file"),
    ],
)
def test_the_reader_is_safe_without_the_checksum(tiny, official_files, monkeypatch, content, message):
    """Broken: another MATLAB file would surface as a crash."""
    root = tiny("svhn")
    path = root / "train_32x32.mat"
    if content is None:
        path.write_bytes(path.read_bytes()[:-100])
    else:
        savemat(path, content)
    official_files.trust(root, monkeypatch)
    with pytest.raises(DataError, match=message):
        Svhn().load(root)


def test_real_house_numbers_in_official_form(real_data, official_files, tmp_path, monkeypatch):
    """Broken: real pixels would be turned or recoloured."""
    part = real_data / "svhn_partial" / "svhn_train_first1083.npz"
    if not part.is_file():
        pytest.skip("no real SVHN here")
    with np.load(part, allow_pickle=False) as known:
        images, labels = known["images"].transpose(0, 3, 1, 2), known["labels"].astype(np.int64)
    official_files.write_mat(tmp_path / "train_32x32.mat", images[:800], labels[:800])
    official_files.write_mat(tmp_path / "test_32x32.mat", images[800:], labels[800:])
    official_files.trust(tmp_path, monkeypatch)
    test = Svhn().load(tmp_path).test.read()
    assert np.array_equal(test.images.numpy(), images[800:]) and test.labels.tolist() == labels[800:].tolist()
