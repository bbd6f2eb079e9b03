"""`cifar10` and `cifar100`: the official files and nothing else."""

from __future__ import annotations

import os

import numpy as np
import pytest
import torch

from ddfw import DataError
from ddfw.cli.main import invoke
from ddfw.testing import check_data
from ddfw_plugins.datasets import _python2
from ddfw_plugins.datasets.cifar import Cifar10, Cifar100

FOLDER = "cifar-10-batches-py"


def test_cifar10_keeps_the_contract_and_its_pixels(tiny):
    """Broken: colours, rows or labels would be exchanged."""
    root = tiny("cifar10")
    check_data(Cifar10(), root)
    splits = Cifar10().load(root)
    assert splits.spec.shape == (3, 32, 32) and splits.class_names[3] == "cat" and splits.max_value == 255.0
    assert len(splits.train.labels) + len(splits.validation.labels) == 60 and len(splits.test) == 20
    expected = _python2.read((root / FOLDER / "test_batch").read_bytes())
    test = splits.test.read()
    assert np.array_equal(test.images.numpy().reshape(20, 3072), expected[b"data"])
    assert test.labels.tolist() == expected[b"labels"]


def test_cifar100_has_fine_and_coarse_labels(tiny):
    """Broken: the names would belong to other labels."""
    root = tiny("cifar100")
    check_data(Cifar100(), root)
    fine, coarse = Cifar100().load(root), Cifar100(labels="coarse").load(root)
    assert fine.spec.num_classes == 100 and fine.class_names[7] == "fine7"
    assert coarse.spec.num_classes == 20 and coarse.class_names[7] == "coarse7"
    assert torch.equal(fine.test.read().labels // 5, coarse.test.read().labels)
    assert torch.equal(fine.test.last_read.images, coarse.test.last_read.images)


def truncated(folder):
    whole = (folder / "data_batch_3").read_bytes()
    (folder / "data_batch_3").write_bytes(whole[:-1000])
    return "data_batch_3 is damaged or not the official file"


def flipped(folder):
    whole = bytearray((folder / "data_batch_1").read_bytes())
    whole[-400] ^= 1
    (folder / "data_batch_1").write_bytes(whole)
    return "data_batch_1 is damaged or not the official file"


def renamed(folder):
    (folder / "data_batch_1").replace(folder / "test_batch")
    return "data_batch_1 is missing"


def swapped(folder):
    (folder / "data_batch_1").rename(folder / "x")
    (folder / "data_batch_2").rename(folder / "data_batch_1")
    (folder / "x").rename(folder / "data_batch_2")
    return "data_batch_1 is damaged or not the official file"


def malicious(folder):
    (folder / "batches.meta").write_bytes(b"cos\nsystem\nU\x13touch ddfw-was-here\x85R.")
    return "batches.meta is damaged or not the official file"


def a_folder(folder):
    (folder / "test_batch").unlink()
    (folder / "test_batch").mkdir()
    return "test_batch is not a file"


def a_pipe(folder):
    (folder / "test_batch").unlink()
    os.mkfifo(folder / "test_batch")
    return "test_batch is not a file"


def a_link_to_itself(folder):
    (folder / "test_batch").unlink()
    (folder / "test_batch").symlink_to("test_batch")
    return "test_batch"


def enormous(folder):
    with (folder / "data_batch_2").open("wb") as file:
        file.truncate(1 << 40)
    return "data_batch_2 has 1,099,511,627,776 bytes"


def empty(folder):
    for path in folder.iterdir():
        path.unlink()
    return "batches.meta is missing"


DAMAGES = [truncated, flipped, renamed, swapped, malicious, a_folder, a_pipe, a_link_to_itself, enormous, empty]


@pytest.mark.parametrize("damage", DAMAGES)
def test_files_that_are_not_the_official_ones_are_refused(tiny, damage):
    """Broken: a run would use damaged images, hang, or execute what a file says."""
    root = tiny("cifar10")
    message = damage(root / FOLDER)
    with pytest.raises(DataError) as caught:
        Cifar10().load(root)
    assert message in str(caught.value) and "--download" in str(caught.value)
    assert "\n" not in str(caught.value) and str(root) in str(caught.value)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission_is_a_data_error(tiny):
    """Broken: another user's files would be an internal error."""
    root = tiny("cifar10")
    (root / FOLDER / "test_batch").chmod(0)
    with pytest.raises(DataError, match="Permission denied"):
        Cifar10().load(root)


@pytest.mark.parametrize("damage", [None, truncated, flipped, malicious, renamed])
def test_the_command_line_says_it_in_one_line(tiny, damage, capsys, tmp_path, monkeypatch):
    """Broken: a user would see a traceback, or another exit code, or files would appear."""
    root = tiny("cifar10") if damage else tmp_path / "absent"
    message = damage(root / FOLDER) if damage else "batches.meta is missing"
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    assert invoke(["run", "--data", "cifar10", "--data-root", str(root), "--dry-run"]) == 4
    said = capsys.readouterr().err.strip()
    assert said.startswith("error: ") and message in said and "--download" in said and len(said.splitlines()) == 1
    assert sorted(tmp_path.rglob("*")) == before


def test_no_data_root_is_asked_for(capsys, monkeypatch):
    """Broken: nobody would know where the files have to be."""
    monkeypatch.delenv("DDFW_DATA", raising=False)
    for data in (Cifar10(), Cifar100()):
        with pytest.raises(DataError, match="--data-root or DDFW_DATA"):
            data.load(None)


def test_an_archive_that_lies_there_is_spoken_of(tiny, official_files):
    """Broken: a user with the archive would download it again."""
    root = tiny("cifar10")
    official_files.write_archive(root, FOLDER)
    empty(root / FOLDER)
    with pytest.raises(DataError, match=r"--download, which checks and unpacks .*cifar-10-python\.tar\.gz"):
        Cifar10().load(root)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({b"labels": [0] * 11}, "one label for each image"),
        ({b"labels": [0] * 11 + [10]}, "from 0 to 9"),
        ({b"labels": [0] * 11 + [b"cat"]}, "from 0 to 9"),
        ({b"labels": b"cat"}, "one label for each image"),
        ({b"data": np.zeros((12, 3071), np.uint8)}, "3×32×32"),
        ({b"data": np.zeros(12, np.uint8)}, "3×32×32"),
        ({b"data": [1, 2]}, "3×32×32"),
    ],
)
def test_the_reader_is_safe_without_the_checksum(tiny, official_files, monkeypatch, changes, message):
    """Broken: the checksum would be the only wall."""
    root = tiny("cifar10")
    path = root / FOLDER / "data_batch_4"
    path.write_bytes(official_files.python2({**_python2.read(path.read_bytes()), **changes}))
    official_files.trust(root, monkeypatch)
    with pytest.raises(DataError, match=message):
        Cifar10().load(root)


def test_a_malicious_file_is_refused_even_with_the_right_checksum(tiny, official_files, monkeypatch):
    """Broken: whoever can choose the checksum could run a program."""
    root = tiny("cifar10")
    malicious(root / FOLDER)
    official_files.trust(root, monkeypatch)
    monkeypatch.setattr(os, "system", lambda *_: pytest.fail("executed"))
    with pytest.raises(DataError, match=r"'os system'.*nothing was executed"):
        Cifar10().load(root)
    (root / FOLDER / "batches.meta").write_bytes(official_files.python2({b"label_names": [1, 2]}))
    official_files.trust(root, monkeypatch)
    with pytest.raises(DataError, match="does not list the classes"):
        Cifar10().load(root)


def test_real_cifar10_is_what_the_field_knows(real_cifar10):
    """Broken: results would be of another data set. The means are those that everyone normalises with."""
    splits = Cifar10().splits(real_cifar10)
    assert (len(splits.train.labels), len(splits.validation.labels), len(splits.test)) == (45_000, 5_000, 10_000)
    assert set(splits.class_counts()) == {5_000} and splits.class_names[0] == "airplane"
    parts = (splits.train.images.numpy(), splits.validation.images.numpy())
    sums = sum(part.sum(axis=(0, 2, 3), dtype=np.int64) for part in parts)
    assert np.allclose(sums / (50_000 * 32 * 32 * 255), [0.4914, 0.4822, 0.4465], atol=1e-4)


def test_real_pixels_are_those_of_an_independent_decoder(real_cifar10, real_data, real_unpack):
    """Broken: colours or rows exchanged in a way that the means do not show."""
    pieces = real_data / "cifar10" / "test_batch.zip"
    if not pieces.is_file():
        pytest.skip("no lossless pieces here")
    images, labels, *_ = real_unpack.load(pieces)
    test = Cifar10().load(real_cifar10).test.read()
    assert np.array_equal(test.images.numpy(), images.transpose(0, 3, 1, 2))
    assert test.labels.tolist() == labels["labels"].tolist()


def test_real_cifar100_images_in_official_form(real_data, real_unpack, official_files, tmp_path, monkeypatch):
    """Broken: labels would be named wrongly. The names come from the official file."""
    pieces = real_data / "cifar100_sub"
    if not pieces.is_dir():
        pytest.skip("no real CIFAR-100 here")
    folder = tmp_path / "cifar-100-python"
    folder.mkdir()
    images, labels, *_ = real_unpack.load(pieces / "test.zip")
    by_class = np.argsort(labels["fine"], kind="stable").reshape(100, 20)
    for part, rows in (("train", by_class[:, :4].ravel()), ("test", by_class[:, 4:6].ravel())):
        content = {
            b"data": images[rows].transpose(0, 3, 1, 2).reshape(-1, 3072),
            b"fine_labels": labels["fine"][rows].tolist(),
            b"coarse_labels": labels["coarse"][rows].tolist(),
        }
        (folder / part).write_bytes(official_files.python2(content))
    (folder / "meta").write_bytes((pieces / "meta").read_bytes())
    from ddfw_plugins.datasets._official import FILES

    assert official_files.md5(folder / "meta") == FILES["cifar-100-python/meta"].md5
    official_files.trust(tmp_path, monkeypatch)
    fine, coarse = Cifar100().load(tmp_path), Cifar100(labels="coarse").load(tmp_path)
    assert fine.class_names[:2] == ("apple", "aquarium_fish") and fine.class_names[99] == "worm"
    assert coarse.class_names[:2] == ("aquatic_mammals", "fish") and len(coarse.class_names) == 20
    pairs = set(zip(fine.test.read().labels.tolist(), coarse.test.read().labels.tolist(), strict=True))
    named = {(fine.class_names[f], coarse.class_names[c]) for f, c in pairs}
    assert len(named) == 100 and {("whale", "aquatic_mammals"), ("shark", "fish"), ("rose", "flowers")} <= named
    first = images[by_class[0, 4]].transpose(2, 0, 1)
    assert np.array_equal(fine.test.last_read.images[0].numpy(), first)
