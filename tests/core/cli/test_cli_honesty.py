"""What a run says of itself: the test split is read once and chooses nothing, and others find the same accuracy."""

from __future__ import annotations

import json
import re
import statistics
from types import SimpleNamespace

import pytest
import torch
from torch.utils.data import DataLoader

import ddfw as package
from ddfw.pipeline.evaluation.baselines import BASELINES
from ddfw_plugins.datasets.digits import Digits

ALL = tuple(BASELINES)


def read(path):
    return json.loads(path.read_text())


@pytest.fixture(scope="module")
def crossed(ddfw, finished, tiny, tmp_path_factory):
    """The finished run again, with all baselines and two other networks, one of them with options of its own."""
    out = tmp_path_factory.mktemp("crossed") / "run"
    more = ["--cross", "mlp", '--set=cross.wide.name="convnet"', "--set=cross.wide.depth=1", "--set=cross.wide.width=6"]
    baselines = "--set=eval.baselines=[" + ", ".join(f'"{name}"' for name in ALL) + "]"
    said = ddfw(*tiny, *more, baselines, "--out", out, "--experts-dir", finished.experts)
    assert said.code == 0, said.err
    return SimpleNamespace(out=out, said=said, summary=read(out / "summary.json"))


@pytest.fixture(scope="module")
def permuted(ddfw, tiny, two_archives, tmp_path_factory):
    """Two runs on data that differ in the order of their test labels alone."""
    place = tmp_path_factory.mktemp("permuted")
    for name, path in zip(("plain", "permuted"), two_archives, strict=True):
        words = ["--data", "npz", f"--set=data.path={path}", "--set=data.max_value=16", "--set=eval.every=1"]
        lrs = "--set=eval.baseline_lrs=[0.01, 0.1]"
        said = ddfw(*tiny, *words, lrs, "--cross", "mlp", "--out", place / name, "--experts-dir", place / "experts")
        assert said.code == 0, said.err
    return place / "plain", place / "permuted"


def test_test_labels_shape_nothing_that_is_learned_or_chosen(permuted):
    """Broken: the test split would have had a say, and every figure be too good."""
    for name in ("params", "images", "labels"):
        paths = [run / "synthetic" / f"{name}.safetensors" for run in permuted]
        assert paths[0].read_bytes() == paths[1].read_bytes(), name
    cards = [read(run / "synthetic" / "card.json") for run in permuted]
    for key in ("selected", "step_size", "training_space", "floats", "experts"):
        assert cards[0][key] == cards[1][key], key
    before, after = (read(run / "summary.json") for run in permuted)
    assert before["selected_step"] == after["selected_step"]
    for a, b in zip([*before["rows"], *before["cross"]], [*after["rows"], *after["cross"]], strict=True):
        assert (a["subject"], a["lr"], a["images"], a["floats"]) == (b["subject"], b["lr"], b["images"], b["floats"])
    differing = [a["subject"] for a, b in zip(before["rows"], after["rows"], strict=True) if a["mean"] != b["mean"]]
    assert differing


def test_the_test_split_is_read_once_whatever_is_compared(permuted, crossed, finished):
    """Broken: a figure could be the best of several looks."""
    for run in (*permuted, crossed.out, finished.out):
        assert read(run / "manifest.json")["test_reads"] == 1


def test_other_networks_and_baselines_change_nothing_of_the_set(crossed, finished):
    """Broken: what is compared would shape what is compared with."""
    for name in ("params", "images", "labels"):
        path = f"synthetic/{name}.safetensors"
        assert (crossed.out / path).read_bytes() == (finished.out / path).read_bytes()
    for name in ("distilled", "random_real", "random_real_teacher", "full_data"):
        records = [read(out / "eval" / f"{name}.json") for out in (crossed.out, finished.out)]
        assert {**records[0], "source": ""} == {**records[1], "source": ""}, "a row may come from the other run"


def test_every_baseline_says_how_much_it_stores_and_how_often_it_was_judged(crossed):
    """Broken: unequal things would stand side by side without a word."""
    rows = {row["subject"]: row for row in crossed.summary["rows"]}
    assert set(rows) == {"distilled", *ALL}
    learned = rows["distilled"]["images"]
    for name in ALL:
        record, row = read(crossed.out / "eval" / f"{name}.json"), rows[name]
        assert record["n"] == row["n"] == len(record["accuracies"]) == 2
        assert record["floats"] == row["floats"] and record["images"] == row["images"]
        images = 1295 if name == "full_data" else learned if name.endswith("_count") else 10
        assert row["images"] == images
        assert row["floats"]["pixels"] == 64 * images
        assert row["floats"]["strict"] == 64 * images + (10 * images if "teacher" in name else 0)


@pytest.mark.parametrize("word", ["kmeans_real", "herding_real", "kmeans_pixels"])
def test_a_selection_by_name_is_the_row_of_the_run(ddfw, crossed, finished, word):
    """Broken: `ddfw eval kmeans_real` would judge other images than the table's row of that name."""
    said = ddfw("eval", word, "--like", crossed.out, "--experts-dir", finished.experts, "--json")
    assert said.code == 0, said.err
    (found,), row = said.events, read(crossed.out / "eval" / f"{word}.json")
    for key in ("accuracies", "lr", "images", "floats"):
        assert found[key] == row[key], key


def test_other_networks_have_rows_files_and_a_table(crossed):
    """Broken: figures of other networks could not be found again."""
    cross = {(row["net"], row["subject"]): row for row in crossed.summary["cross"]}
    own = [row["subject"] for row in crossed.summary["rows"] if row["subject"] != "full_data"]
    assert set(cross) == {(net, subject) for net in ("mlp", "wide") for subject in own}
    for (net, subject), row in cross.items():
        record = read(crossed.out / "eval" / f"{subject}-{net}.json")
        assert (record["net"], record["subject"], record["n"], record["split"]) == (net, subject, 2, "test")
        assert record["mean"] == row["mean"] and record["floats"] == row["floats"]
    (head,) = [line for line in crossed.said.out.splitlines() if line.startswith("other networks")]
    assert head.split()[2:] == ["mlp", "wide"]
    (line,) = [x for x in crossed.said.out.splitlines() if x.startswith("distilled") and x.count("±") == 2]
    shown = re.findall(r"([\d.]+) ± ([\d.]+) %", line)
    for net, (mean, std) in zip(("mlp", "wide"), shown, strict=True):
        row = cross[net, "distilled"]
        assert (mean, std) == (f"{100 * row['mean']:.1f}", f"{100 * row['std']:.1f}")


def test_another_network_is_judged_as_if_it_had_been_the_only_one(ddfw, crossed):
    """Broken: a row of the cross table would depend on the run's own network."""
    said = ddfw("eval", crossed.out, "--like", crossed.out, "--model", "mlp", "--json")
    assert said.events[0]["accuracies"] == read(crossed.out / "eval" / "distilled-mlp.json")["accuracies"]


@pytest.mark.parametrize(
    "words",
    [
        ["--cross", "convent"],
        ["--cross", "vgg11"],
        ["--cross", "vgg11", "--dry-run"],
        ['--set=cross.a/b.name="mlp"'],
        ['--set=cross.a/b.name="mlp"', "--dry-run"],
        ["--set=cross.mlp.width=-1"],
    ],
    ids=["unknown", "too-deep", "too-deep-dry", "path", "path-dry", "option"],
)
def test_a_network_that_cannot_be_judged_is_refused_before_anything_is_trained(ddfw, tiny, here, words):
    """Broken: hours later a run would end because of a word."""
    said = ddfw(*tiny, *words, "--out", here / "run", "--experts-dir", here / "experts", "-q")
    said.refused(2, "cross" if "convent" not in words else "convent")
    assert not (here / "experts").exists()


# --- what others find ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def worthwhile(ddfw, tmp_path_factory):
    """Ten real images of each class as a run, with augmentation: networks learn something in a few passes."""
    place = tmp_path_factory.mktemp("worthwhile")
    settings = ("model.depth=2", "model.width=16", "experts.count=1", "experts.epochs=3", "window.max_start=1",
                "outer.steps=0", "outer.step_size=0.05", "eval.networks=3", "eval.epochs=40", "eval.batch_size=64",
                "eval.baselines=[]", "eval.select_networks=1", "eval.select_epochs=1",
                "executor.threads=1")  # fmt: skip
    words = ["run", "default", "--param", "pixel", "--labels", "hard", "--augment", "dsa", "--ipc", "10"]
    families = '--set=augment.families=["crop", "scale", "rotate"]'
    said = ddfw(*words, families, *(f"--set={s}" for s in settings), "--out", place / "run",
                "--experts-dir", place / "experts", "-q")  # fmt: skip
    assert said.code == 0, said.err
    return place / "run"


def test_five_lines_of_pytorch_find_the_same_accuracy(worthwhile):
    """Broken: a figure of ours would be nobody else's, through an optimiser, a schedule or a space of our own."""
    learned, epochs = package.load(worthwhile), 40
    test = Digits().load(None).test.read()
    images = learned.space.encode(test.images, torch.float32)
    found = []
    for seed in range(3):
        torch.manual_seed(seed)
        network, lr = learned.network(seed), learned.step_size
        for epoch in range(epochs):
            if epoch in (0, epochs // 2 + 1):
                lr = learned.step_size if epoch == 0 else lr / 10
                optimiser = torch.optim.SGD(network.parameters(), lr=lr, momentum=0.9, weight_decay=5e-4)
            for batch, targets in DataLoader(learned, batch_size=64, shuffle=True):
                optimiser.zero_grad()
                torch.nn.functional.cross_entropy(network(learned.augment(batch)), targets).backward()
                optimiser.step()
        with torch.no_grad():
            found.append(float((network(images).argmax(dim=1) == test.labels).double().mean()))
    record = read(worthwhile / "eval" / "distilled.json")
    assert record["mean"] > 0.5
    assert statistics.fmean(found) == pytest.approx(record["mean"], abs=max(record["std"], 0.03))
