"""`tinyimagenet`: the unpacked archive, whole or an even part of it."""

from __future__ import annotations

import shutil
import tarfile

import numpy as np
import pytest
from PIL import Image

from ddfw import DataError, OptionError
from ddfw.cli.main import invoke
from ddfw.testing import check_data
from ddfw_plugins.datasets.imagefolder import ImageFolder
from ddfw_plugins.datasets.tinyimagenet import TinyImageNet

FOLDER = "tiny-imagenet-200"
CAT = "n02124075"


def test_it_keeps_the_contract_and_its_order(tiny, official_files):
    """Broken: labels would not be those of wnids.txt, or the official validation images would be trained on."""
    root = tiny("tinyimagenet")
    check_data(TinyImageNet(), root)
    splits = TinyImageNet().load(root)
    assert splits.class_names == ("Egyptian cat", "goldfish", "n04067472")
    assert splits.test.read().labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    with Image.open(root / FOLDER / "val" / "images" / "val_4.JPEG") as image:
        assert np.array_equal(splits.test.last_read.images[4].numpy(), np.asarray(image).transpose(2, 0, 1))
    assert "a part: 18 training and 9 test images" in splits.source


def test_names_that_two_classes_share_get_their_identifier(tiny):
    """Broken: a class could not be chosen by its name."""
    root = tiny("tinyimagenet")
    (root / FOLDER / "words.txt").write_text(f"{CAT}\tcrane\nn01443537\tcrane, bird\nn04067472\t\x1b[2J\n")
    names = TinyImageNet().load(root).class_names
    assert names == (f"crane ({CAT})", "crane (n01443537)", "n04067472")


def test_grey_pictures_become_colour(tiny):
    """Broken: the few grey photographs of the set would stop every run."""
    root = tiny("tinyimagenet")
    path = root / FOLDER / "val" / "images" / "val_0.JPEG"
    Image.new("L", (64, 64), 77).save(path)
    image = TinyImageNet().load(root).test.read().images[0]
    assert image.shape == (3, 64, 64) and set(image.flatten().tolist()) == {77}


def missing(folder):
    shutil.rmtree(folder)
    return "wnids.txt is missing"


def a_class_is_missing(folder):
    shutil.rmtree(folder / "train" / CAT)
    return CAT


def an_image_is_missing(folder):
    (folder / "train" / CAT / "images" / f"{CAT}_3.JPEG").unlink()
    return f"{CAT} has 5 training images, others have 6"


def a_test_image_is_missing(folder):
    (folder / "val" / "images" / "val_3.JPEG").unlink()
    return "val_3.JPEG is missing"


def a_class_without_test_images(folder):
    path = folder / "val" / "val_annotations.txt"
    path.write_text("\n".join(path.read_text().splitlines()[:6]))
    return "n04067472 has 0 validation images, others have 3"


def a_path_for_a_class(folder):
    (folder / "wnids.txt").write_text("../../etc\nn01443537\n")
    return "wnids.txt is not a list"


def a_path_for_an_image(folder):
    (folder / "val" / "val_annotations.txt").write_text(f"../../../secret.JPEG\t{CAT}\n")
    return "secret.JPEG"


def an_image_twice(folder):
    (folder / "val" / "val_annotations.txt").write_text(f"val_0.JPEG\t{CAT}\n" * 2)
    return "names an image twice"


def not_text(folder):
    (folder / "wnids.txt").write_bytes(b"\xff\xfe\x00")
    return "is not a text file"


def truncated(folder):
    path = folder / "train" / CAT / "images" / f"{CAT}_2.JPEG"
    path.write_bytes(path.read_bytes()[:700])
    return f"{CAT}_2.JPEG was refused: damaged"


def another_size(folder):
    Image.new("RGB", (63, 64)).save(folder / "val" / "images" / "val_1.JPEG")
    return "val_1.JPEG has 64×63 pixels, expected 64×64"


def a_link_elsewhere(folder):
    path = folder / "val" / "images" / "val_1.JPEG"
    path.rename(folder.parent / "outside.JPEG")
    path.symlink_to(folder.parent / "outside.JPEG")
    return "val_1.JPEG leads out of"


def a_class_folder_elsewhere(folder):
    path = folder / "train" / CAT
    path.rename(folder.parent / "outside")
    path.symlink_to(folder.parent / "outside")
    return f"{CAT}_0.JPEG leads out of"


DAMAGES = [
    missing,
    a_class_is_missing,
    an_image_is_missing,
    a_test_image_is_missing,
    a_class_without_test_images,
    a_path_for_a_class,
    a_path_for_an_image,
    an_image_twice,
    not_text,
    truncated,
    another_size,
    a_link_elsewhere,
    a_class_folder_elsewhere,
]


@pytest.mark.parametrize("damage", DAMAGES)
def test_an_incomplete_or_hostile_folder_is_refused_in_words(tiny, damage):
    """Broken: a half unpacked archive would be used, or any file of the disk would become an image."""
    root = tiny("tinyimagenet")
    message = damage(root / FOLDER)
    with pytest.raises(DataError) as caught:
        TinyImageNet().load(root)
    assert message in str(caught.value) and len(str(caught.value).splitlines()) == 1


def test_the_command_line_says_where_the_archive_is(tmp_path, capsys):
    """Broken: a user would not know where to get it; torchvision has no address to download from."""
    assert invoke(["run", "--data", "tinyimagenet", "--data-root", str(tmp_path), "--dry-run"]) == 4
    assert "unpack http://cs231n.stanford.edu/tiny-imagenet-200.zip" in capsys.readouterr().err
    with pytest.raises(OptionError, match=r"tiny-imagenet-200\.zip"):
        TinyImageNet().download(tmp_path)


def test_real_pictures_are_read_by_both_readers(real_data, tmp_path):
    """Broken: the real tree would not be understood."""
    archives = sorted((real_data / "tinyimagenet_sub").glob("*.tar.xz"))
    if not archives:
        pytest.skip("no real Tiny ImageNet here")
    wanted = ("n01443537", "n01629819", "n01641577")
    with tarfile.open(archives[0]) as tar:
        # Python before 3.11.4 has neither this filter nor the argument for one.
        tar.extraction_filter = getattr(tarfile, "data_filter", None)
        for member in tar:
            if "/train/" not in member.name or any(w in member.name for w in wanted):
                tar.extract(member, tmp_path)
    folder = tmp_path / FOLDER
    (folder / "wnids.txt").write_text("\n".join(wanted))
    lines = (folder / "val" / "val_annotations.txt").read_text().splitlines()
    lines = [line for line in lines if line.split("\t")[1] in wanted]
    (folder / "val" / "val_annotations.txt").write_text("\n".join(lines))
    splits = TinyImageNet().load(tmp_path)
    assert splits.class_names == ("goldfish", "European fire salamander", "bullfrog")
    assert splits.class_counts() == (20, 20, 20) and len(splits.test) == 15
    check_data(ImageFolder(path=f"{FOLDER}/train"), tmp_path)
