"""`ddfw experts import`: other programs' experts come in whole or not at all, and runs use them as they are."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import ddfw as package
from ddfw_plugins.trajectories.mct import ConvexTrajectory

GOLDEN = Path(__file__).parents[2] / "golden" / "replay_buffer"
GOOD = GOLDEN / "good.pt"
BAD = (
    "aliased", "malicious_rawpickle", "malicious_zip", "missing_tensor", "nan_snapshot", "truncated", "wrong_shape",
)  # fmt: skip
WHAT = ["--data", "digits", "--model", "convnet", "--set", "model.depth=2", "--set", "model.width=8"]
WIDTH = ["--set", "model.width=8"]


def tree(folder):
    """Everything below a folder: paths, contents, times."""
    found = sorted(folder.rglob("*")) if folder.exists() else []
    return [(str(p), p.stat().st_mtime_ns, p.read_bytes() if p.is_file() else None) for p in found]


def name_in(said):
    (name,) = set(re.findall(r"experts\.store=(\S+)", said.out))
    return name


@pytest.fixture(scope="session")
def checkpoints():
    """[2, 6, 1026], what good.pt holds."""
    with np.load(GOLDEN / "good_expected.npz", allow_pickle=False) as archive:
        return torch.from_numpy(archive["flat_params"])


@pytest.fixture(scope="session")
def stores(tmp_path_factory, ddfw):
    """good.pt as checkpoints and as way-points of mct."""
    folder = tmp_path_factory.mktemp("imported") / "experts"
    whole = ddfw("experts", "import", GOOD, *WHAT, "--experts-dir", folder)
    compact = ddfw("experts", "import", GOOD, *WHAT, "--as", "mct", "--experts-dir", folder)
    assert whole.code == compact.code == 0, whole.err + compact.err
    return SimpleNamespace(
        folder=folder, whole=name_in(whole), compact=name_in(compact), said=whole, said_compact=compact
    )


@pytest.fixture
def run(ddfw, tiny, stores, here):
    """A tiny run from one of the stores."""

    def start(store, *words, out="run"):
        return ddfw(
            *tiny, *WIDTH, "-q", "--experts-dir", stores.folder, "--set", f"experts.store={store}",
            "--set", "eval.baselines=[]", "--out", here / out, *words,
        )  # fmt: skip

    return start


def test_checkpoints_are_copied_bit_for_bit(stores, checkpoints):
    """Broken: students would be matched against other weights than the ones in the buffer."""
    files = sorted((stores.folder / stores.whole).glob("*.safetensors"))
    assert [f.name for f in files] == ["expert-0.safetensors", "expert-1.safetensors"]
    for number, file in enumerate(files):
        found = load_file(file)
        assert set(found) == {"snapshots"}
        assert np.array_equal(found["snapshots"].numpy().view(np.uint32), checkpoints[number].numpy().view(np.uint32))


def test_as_mct_keeps_waypoints_and_progress_and_nothing_else(stores, checkpoints):
    """Broken: lines would differ from those through the checkpoints, or nothing would be saved."""
    sizes = [72, 8, 8, 8, 576, 8, 8, 8, 320, 10]
    for number in range(2):
        found = load_file(stores.folder / stores.compact / f"expert-{number}.safetensors")
        assert set(found) == {"points", "beta_0"}
        assert torch.equal(found["points"], checkpoints[number][[0, 5]])
        by_hand = torch.stack([p.diff(dim=0).norm(dim=1) for p in checkpoints[number].split(sizes, dim=1)])
        by_hand = torch.cat([torch.zeros(10, 1), by_hand.cumsum(dim=1)], dim=1) / by_hand.sum(dim=1, keepdim=True)
        assert torch.allclose(found["beta_0"], by_hand, atol=1e-6)
        line = ConvexTrajectory().convexify(checkpoints[number], sizes)
        assert torch.equal(found["points"], line.points) and torch.equal(found["beta_0"], line.betas[0])


def test_it_says_what_was_imported_and_how_to_use_it(stores):
    """Broken: the user would not know the store's name, nor whether data and network fit."""
    said = stores.said
    assert said.err == "" and "imported 2 experts of 5 epochs" in said.out
    assert str(stores.folder / stores.whole) in said.out and "validation" in said.out
    assert stores.whole != stores.compact
    accuracy = float(re.search(r"ends at ([0-9.]+) %", said.out)[1])
    assert accuracy > 60, "good.pt is of digits, in our training space"


def test_the_json_of_an_import_is_one_object(ddfw, here):
    """Broken: scripts could not find the store that they just made."""
    said = ddfw("experts", "import", GOOD, *WHAT, "--json", "--experts-dir", here / "e")
    assert said.code == 0 and said.err == ""
    facts = json.loads(said.out)
    assert (here / "e" / facts["name"]).is_dir() and facts["already_there"] is False and facts["epochs"] == 5
    assert facts["keeps"] == "checkpoints" and [e["number"] for e in facts["experts"]] == [0, 1]
    assert 0.6 < facts["last_checkpoint_accuracy"] <= 1
    again = json.loads(ddfw("experts", "import", GOOD, *WHAT, "--json", "--experts-dir", here / "e").out)
    assert again == {**facts, "already_there": True}


def test_importing_twice_says_so_and_changes_nothing(ddfw, stores):
    """Broken: the same buffer would fill the disk twice, or a store in use would be rewritten."""
    before = tree(stores.folder)
    for words, name in (([], stores.whole), (["--as", "mct"], stores.compact)):
        said = ddfw("experts", "import", GOOD, *WHAT, *words, "--experts-dir", stores.folder)
        assert said.code == 0 and "imported before" in said.out and name_in(said) == name
    assert tree(stores.folder) == before


@pytest.mark.parametrize(
    ("there", "form"), [(True, []), (False, ["--as", "mct"])], ids=["beside good stores", "as mct, in an empty folder"]
)
@pytest.mark.parametrize("name", BAD)
def test_a_bad_buffer_leaves_the_experts_folder_as_it_was(ddfw, stores, here, monkeypatch, name, form, there):
    """Broken: half an import would pass for a store, leave rubbish behind, or run what the file says."""
    folder = here / "experts"
    shutil.copytree(stores.folder, folder) if there else folder.mkdir()
    before, canary = tree(folder), here / "canary"
    monkeypatch.setenv("GOLDEN_CANARY_PATH", str(canary))
    said = ddfw("experts", "import", GOLDEN / f"{name}.pt", *WHAT, *form, "--experts-dir", folder)
    said.refused(4, f"{name}.pt")
    assert len(said.err.splitlines()) == 1
    assert tree(folder) == before and not list(folder.glob(".*"))
    assert not canary.exists()


@pytest.mark.parametrize("name", BAD)
def test_a_bad_buffer_does_not_make_the_experts_folder(ddfw, here, name):
    """Broken: a refused import would leave an empty folder behind."""
    ddfw("experts", "import", GOLDEN / f"{name}.pt", *WHAT).refused(4, f"{name}.pt")
    assert list(here.iterdir()) == []


def test_a_bad_file_in_a_folder_stops_the_whole_import(ddfw, here):
    """Broken: experts of the good files would be there, and the next try would say that all were imported."""
    (here / "buffers").mkdir()
    shutil.copy(GOOD, here / "buffers" / "replay_buffer_0.pt")
    shutil.copy(GOLDEN / "nan_snapshot.pt", here / "buffers" / "replay_buffer_1.pt")
    (here / "experts").mkdir()
    ddfw("experts", "import", here / "buffers", *WHAT).refused(4, "replay_buffer_1.pt", "expert 0, snapshot 2")
    assert list((here / "experts").iterdir()) == []


def test_a_folder_of_buffers_numbers_the_experts_through_in_the_order_of_n(ddfw, here, checkpoints):
    """Broken: experts of one file would overwrite those of another, or 10 would come before 2."""
    (here / "buffers").mkdir()
    (here / "buffers" / "notes.txt").write_text("mine")
    for number, scale in ((0, 1.0), (2, 2.0), (10, 3.0)):
        content = torch.load(GOOD, weights_only=True)
        content = [[[scale * t for t in s] for s in e] for e in content]
        torch.save(content, here / "buffers" / f"replay_buffer_{number}.pt")
    said = ddfw("experts", "import", here / "buffers", *WHAT)
    assert said.code == 0 and "imported 6 experts" in said.out
    folder = here / "experts" / name_in(said)
    assert len(list(folder.glob("expert-*.safetensors"))) == 6
    for number in range(6):
        found = load_file(folder / f"expert-{number}.safetensors")["snapshots"]
        assert torch.equal(found, [1.0, 2.0, 3.0][number // 2] * checkpoints[number % 2])
    files = json.loads((folder / "index.json").read_text())["key"]["imported"]
    assert [f["file"] for f in files] == [f"replay_buffer_{n}.pt" for n in (0, 2, 10)]


def test_buffers_of_different_lengths_are_one_thing_in_both_forms_or_refused(ddfw, tiny, here):
    """Broken: the same import would mean other segments depending on `--as`, and labels fail in one of them."""
    (here / "buffers").mkdir()
    content = torch.load(GOOD, weights_only=True)
    torch.save(content, here / "buffers" / "replay_buffer_0.pt")
    torch.save([expert[:4] for expert in content], here / "buffers" / "replay_buffer_1.pt")
    sets = {}
    for name, form in (("whole", []), ("compact", ["--as", "mct"])):
        said = ddfw("experts", "import", here / "buffers", *WHAT, *form)
        if said.code != 0:
            said.refused(4, "replay_buffer_1.pt", "3", "5")
            continue
        words = [
            "-q",
            "--set",
            f"experts.store={name_in(said)}",
            "--set",
            "experts.count=4",
            "--set",
            "eval.baselines=[]",
        ]
        run = ddfw(*tiny, *WIDTH, *words, "--labels", "soft", "--out", name)
        assert run.code == 0, run.err
        sets[name] = package.load(here / name).images
    assert not sets or torch.equal(sets["whole"], sets["compact"])


@pytest.mark.parametrize(
    ("path", "words"),
    [("none.pt", "is missing"), ("empty", "holds no replay_buffer_N.pt")],
)
def test_a_path_without_buffers_is_a_data_error(ddfw, here, path, words):
    """Broken: a slip in the path would end as an empty store or an internal error."""
    (here / "empty").mkdir()
    ddfw("experts", "import", path, *WHAT).refused(4, words, path)
    assert [p.name for p in here.iterdir()] == ["empty"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--as", "mtt"], "every checkpoint"),
        (["--as", "mcd"], "mct"),
        (["--as", "mct", "--set", "traj.waypoints=[0,4]"], "traj.waypoints"),
        (["--as", "mct", "--set", "traj.nothing=1"], "traj.nothing"),
    ],
)
def test_a_form_that_cannot_be_kept_is_a_matter_of_options(ddfw, here, words, said):
    """Broken: a store would be made that no source can use."""
    ddfw("experts", "import", GOOD, *WHAT, *words).refused(2, said)
    assert not (here / "experts").exists() or list((here / "experts").iterdir()) == []


def test_a_buffer_of_another_network_is_refused_by_its_shapes(ddfw, here):
    """Broken: weights would be cut into the wrong tensors."""
    said = ddfw("experts", "import", GOOD, "--data", "digits", "--set", "model.depth=2", "--set", "model.width=16")
    said.refused(4, "good.pt", "another network", "tensor 0 (0.weight)", "[8, 1, 3, 3]", "[16, 1, 3, 3]")
    assert not list(here.iterdir())


def test_runs_from_both_forms_give_the_same_set(run, here, stores):
    """Broken: keeping only way-points would change results."""
    for name, store in (("whole", stores.whole), ("compact", stores.compact)):
        said = run(store, out=name)
        assert said.code == 0, said.err
    for file in ("params", "images", "labels"):
        one, other = ((here / n / "synthetic" / f"{file}.safetensors").read_bytes() for n in ("whole", "compact"))
        assert one == other, file
    index = torch.arange(20)
    found = package.load(here / "compact")
    assert len(found.images) == len(index) and found.images.isfinite().all()


def test_results_say_that_imported_experts_may_have_seen_the_validation_images(run, here, stores):
    """Broken: a figure whose selection was leaked into would stand beside clean ones without a word."""
    assert run(stores.whole).code == 0
    words = "imported experts may have seen the validation images"
    record = json.loads((here / "run" / "eval" / "distilled.json").read_text())
    assert any(words in note for note in record["notes"])
    (row,) = json.loads((here / "run" / "summary.json").read_text())["rows"]
    assert any(words in note for note in row["notes"])
    card = json.loads((here / "run" / "synthetic" / "card.json").read_text())
    assert words in json.dumps(card)


def test_trained_experts_get_no_such_note(finished):
    """Broken: every run would carry a warning that means nothing."""
    assert "imported" not in (finished.out / "summary.json").read_text()


def test_mtt_needs_the_checkpoints_and_says_what_to_do(run, stores):
    """Broken: students would be matched against points that are none of the expert's, or the error would not help."""
    run(stores.compact, "--traj", "mtt").refused(2, "traj", "take traj mct", "without --as")
    assert run(stores.whole, "--traj", "mtt", out="other").code == 0


def test_teacher_labels_of_an_epoch_that_was_not_kept_are_refused(run, stores):
    """Broken: labels would come from another epoch than the one asked for."""
    said = run(stores.compact, "--labels", "teacher", "--set", "labels.epoch=2")
    said.refused(2, "labels", "not 2", "without --as")


@pytest.mark.parametrize("words", [[], ["--labels", "teacher"], ["--labels", "teacher", "--set", "labels.epoch=5"]])
def test_labels_of_the_last_epoch_work_from_waypoints(run, here, stores, words):
    """Broken: the form that saves disk would not do for the usual labels."""
    for name, store in (("compact", stores.compact), ("whole", stores.whole)):
        said = run(store, *words, "--set", "outer.steps=0", out=name)
        assert said.code == 0, said.err
    one, other = (package.load(here / n).targets for n in ("compact", "whole"))
    assert torch.equal(one, other) and float(one.max()) < 1


@pytest.mark.parametrize(
    "option", ["traj.waypoints=[0,2,5]", "traj.waypoints=official", "traj.progress=uniform", "traj.smoothing=legacy"]
)
def test_other_waypoints_than_the_stored_ones_are_refused(run, stores, option):
    """Broken: a run would claim way-points that it did not use."""
    run(stores.compact, "--set", option).refused(2, "traj", "arc_length")


def test_options_that_do_not_change_waypoints_are_free(run, stores):
    """Broken: the buffer would have to be imported again for every segment length."""
    assert run(stores.compact, "--set", "traj.expert_epochs=3", "--set", "traj.continuous=false").code == 0


def test_smoothed_waypoints_are_no_checkpoints(ddfw, tiny, here):
    """Broken: teacher labels would come from averaged weights, or a long run would end in an error."""
    official = ["--as", "mct", "--set", "traj.waypoints=official"]
    name = name_in(ddfw("experts", "import", GOOD, *WHAT, *official))
    words = [*tiny, *WIDTH, "-q", "--set", f"experts.store={name}", "--set", "traj.waypoints=official"]
    ddfw(*words, "--labels", "soft", "--out", "soft").refused(2, "labels", "not 5")
    said = ddfw(*words, "--labels", "hard", "--out", "hard", "--set", "eval.baselines=['random_real']")
    assert said.code == 0, said.err


def test_a_baseline_that_the_store_cannot_give_is_refused_before_the_outer_loop(ddfw, tiny, here):
    """Broken: after hours of distillation, the last stage would fail and the table be lost."""
    official = ["--as", "mct", "--set", "traj.waypoints=official"]
    name = name_in(ddfw("experts", "import", GOOD, *WHAT, *official))
    words = [*tiny, *WIDTH, "--labels", "hard", "--set", f"experts.store={name}", "--set", "traj.waypoints=official"]
    said = ddfw(*words, "--out", "run", "--json")
    assert not [e for e in said.events if e["event"] == "step"] or said.code == 0, said.err


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (["--set", "model.width=4"], "network"),
        (["--set", "model.norm=none"], "network"),
        (["--set", "data.split_seed=3"], "data"),
        (["--set", "data.space=zca"], "space"),
        (["--set", "data.space=none"], "space"),
    ],
)
def test_experts_of_something_else_are_refused_and_name_the_setting(run, here, stores, words, what):
    """Broken: students would be matched against networks of other images or other layers."""
    run(stores.whole, *words).refused(2, "experts.store", what)
    assert not (here / "run" / "synthetic").exists()


def test_another_data_set_is_refused(ddfw, tiny, stores, two_archives):
    """Broken: experts of digits would teach an archive of the same shape."""
    said = ddfw(
        *tiny, *WIDTH, "-q", "--experts-dir", stores.folder, "--set", f"experts.store={stores.whole}",
        "--data", "npz", "--set", f"data.path={two_archives[0]}",
    )  # fmt: skip
    said.refused(2, "experts.store", "digits")


@pytest.mark.parametrize("name", ["nothing-0123456789ab", "../experts", "."])
def test_an_unknown_store_is_a_data_error(run, here, name):
    """Broken: a slip in the name would train experts for days instead."""
    run(name).refused(4, "no expert store", "ddfw experts list")
    assert not (here / "run").exists()


@pytest.mark.parametrize(("count", "found"), [(1, 1), (2, 2), (9, 2)])
def test_count_caps_the_experts_of_a_store(ddfw, tiny, stores, here, count, found):
    """Broken: a study on few experts would use all, or more than there are."""
    words = ["--set", f"experts.store={stores.whole}", "--set", f"experts.count={count}", "--set", "eval.baselines=[]"]
    said = ddfw(*tiny, *WIDTH, *words, "--experts-dir", stores.folder, "--out", here / "run", "--json")
    assert said.code == 0, said.err
    experts = [e for e in said.events if e["event"] == "expert"]
    assert [(e["seed"], e["cached"], e["validation_accuracy"]) for e in experts] == [
        (n, True, None) for n in range(found)
    ]
    card = json.loads((here / "run" / "synthetic" / "card.json").read_text())
    assert card["experts"]["numbers"] == list(range(found)) and card["experts"]["imported"] is True
    # Their numbers are no seeds of ours.
    assert json.loads((here / "run" / "manifest.json").read_text())["seeds"]["experts"] == []


def test_a_dry_run_counts_imported_experts_as_there(run, stores, here):
    """Broken: people would expect days of training."""
    (facts,) = run(stores.whole, "--dry-run", "--json").events
    assert (facts["experts"], facts["experts_cached"]) == (2, 2)
    assert facts["expert_folder"] == str(stores.folder / stores.whole)


@pytest.mark.parametrize(("flag", "kind"), [("--zca", "zca"), ("--no-zca", "standard")])
def test_zca_or_not_is_part_of_what_the_experts_are(ddfw, here, flag, kind):
    """Broken: experts of whitened images would be matched on others."""
    facts = json.loads(ddfw("experts", "import", GOOD, *WHAT, flag, "--json").out)
    assert facts["key"]["space"]["kind"] == kind
    assert ("epsilon" in facts["key"]["space"]) is (kind == "zca")


def test_a_run_in_double_precision_from_a_single_precision_buffer(run, here, stores, checkpoints):
    """Broken: the student would mix precisions, or the experts be refused."""
    for name, store in (("whole", stores.whole), ("compact", stores.compact)):
        said = run(store, "--set", "run.precision=float64", out=name)
        assert said.code == 0, said.err
    one, other = (package.load(here / n).images for n in ("whole", "compact"))
    assert one.dtype == torch.float64
    # β was measured in single precision where only way-points were kept.
    assert torch.allclose(one, other, atol=1e-4)


def test_a_buffer_that_does_not_fit_the_data_is_imported_with_a_warning(ddfw, here, two_archives):
    """Broken: experts of another label order would be used for weeks before anyone notices."""
    for path, warned in ((two_archives[0], False), (here / "shuffled.npz", True)):
        if warned:
            with np.load(two_archives[0]) as archive:
                arrays = dict(archive)
            arrays["train_labels"] = (arrays["train_labels"] + 3) % 10
            np.savez(path, **arrays)
        said = ddfw(
            "experts", "import", GOOD, "--data", "npz", "--set", f"data.path={path}",
            "--set", "model.depth=2", "--set", "model.width=8",
        )  # fmt: skip
        assert said.code == 0 and "imported 2 experts" in said.out, said.err
        assert ("warning" in said.err) is warned, said.err
        if warned:
            assert len(said.err.splitlines()) == 1 and "--zca" in said.err and "guessing about 10.0 %" in said.err


def test_eval_of_a_run_with_imported_experts_needs_no_experts(ddfw, run, here, stores):
    """Broken: the set could be judged again only in the folder where its experts lie."""
    assert run(stores.whole).code == 0
    first = json.loads((here / "run" / "eval" / "distilled.json").read_text())
    said = ddfw("eval", here / "run", "--json")
    assert said.code == 0, said.err
    assert json.loads(said.out)["accuracies"] == first["accuracies"]


def test_a_damaged_imported_expert_stops_the_run_and_names_its_file(ddfw, tiny, stores, here):
    """Broken: a run would learn from a corrupted expert."""
    shutil.copytree(stores.folder, here / "experts")
    path = here / "experts" / stores.compact / "expert-1.safetensors"
    data = bytearray(path.read_bytes())
    data[-2] ^= 0x20
    path.write_bytes(bytes(data))
    said = ddfw(*tiny, *WIDTH, "-q", "--set", f"experts.store={stores.compact}", "--out", here / "run")
    said.refused(4, "expert-1.safetensors", "ddfw experts rm")


def test_a_renamed_store_is_refused(ddfw, tiny, stores, here):
    """Broken: a store's name would not say any more what is in it."""
    shutil.copytree(stores.folder / stores.whole, here / "experts" / "digits-convnet-imported-000000000000")
    said = ddfw(*tiny, *WIDTH, "-q", "--set", "experts.store=digits-convnet-imported-000000000000")
    said.refused(4, "renamed", stores.whole)


def test_an_imported_store_is_listed_shown_and_removed_like_any_other(ddfw, stores, here):
    """Broken: imported experts could not be managed."""
    shutil.copytree(stores.folder, here / "experts")
    rows = {r["name"]: r for r in json.loads(ddfw("experts", "list", "--json").out)}
    assert {n: r["keeps"] for n, r in rows.items()} == {stores.whole: "checkpoints", stores.compact: "mct"}
    assert all((r["experts"], r["epochs"], r["problem"]) == (2, 5, "") for r in rows.values())
    for name in rows:
        shown = ddfw("experts", "show", name)
        assert shown.code == 0 and "good.pt" in shown.out and "\x1b" not in shown.out
        assert ddfw("experts", "rm", name, "--yes").code == 0
    assert list((here / "experts").iterdir()) == []
