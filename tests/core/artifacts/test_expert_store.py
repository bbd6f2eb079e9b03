"""The expert cache gives back what went in, reads little, notices damage, and removes nothing but experts."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest
import safetensors
import torch
from torch import nn

from ddfw.artifacts.expert_store import ExpertStore, list_stores, remove_store
from ddfw.engine.inner import Network
from ddfw.errors import DataError

CPU = torch.device("cpu")


@pytest.fixture
def store(tmp_path) -> ExpertStore:
    """An empty store below tmp_path."""
    return ExpertStore(tmp_path, {"data": "toy", "lr": 0.1}, "toy-net")


@pytest.fixture
def filled(store, expert, network) -> ExpertStore:
    """The same with experts 0, 1 and 7."""
    for seed in (7, 0, 1):
        store.add(expert(seed), network)
    return store


def test_a_store_that_was_never_written_is_empty_and_makes_no_folder(store):
    """Broken: asking what is cached would leave folders behind, also in a dry run."""
    assert store.index() == {}
    assert not store.folder.exists()


def test_the_index_lists_what_was_added_by_seed(filled, expert):
    """Broken: cached experts would be trained again, or their accuracies mixed up."""
    index = filled.index()
    assert sorted(index) == [0, 1, 7]
    for seed in (0, 1, 7):
        assert index[seed].validation_accuracy == expert(seed).validation_accuracy
        assert index[seed].train_loss == expert(seed).train_loss
        assert (filled.folder / index[seed].file).is_file()


def test_snapshots_come_back_as_they_were_in_the_order_asked_for(filled, expert, network):
    """Broken: students would be matched against the wrong checkpoints."""
    source = filled.source([7, 0], network, CPU, torch.float32)
    assert (source.num_experts, source.num_epochs) == (2, 3)
    assert source.sizes == (6, 2)
    assert torch.equal(source.snapshots(0, range(4)), expert(7).snapshots)
    assert torch.equal(source.snapshots(1, [3, 1]), expert(0).snapshots[[3, 1]])


def test_only_the_rows_that_were_asked_for_are_read(filled, network, monkeypatch):
    """Broken: every segment would read whole trajectories, a thousand times slower on large experts."""
    source = filled.source([0, 1], network, CPU, torch.float32)
    real, rows_read = safetensors.safe_open, []

    class Slice:
        def __init__(self, inner: Any) -> None:
            self.inner = inner

        def __getitem__(self, key: Any) -> torch.Tensor:
            found = self.inner[key]
            rows_read.append(found.numel() // 8)
            return found

        def get_shape(self) -> list[int]:
            return self.inner.get_shape()

    class Spy:
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            self.file = real(*args, **kwargs)

        def __enter__(self) -> Spy:
            self.file.__enter__()
            return self

        def __exit__(self, *args: object) -> None:
            self.file.__exit__(*args)

        def get_slice(self, name: str) -> Slice:
            return Slice(self.file.get_slice(name))

        def get_tensor(self, name: str) -> torch.Tensor:
            rows_read.append(4)
            return self.file.get_tensor(name)

    monkeypatch.setattr(safetensors, "safe_open", Spy)
    assert source.snapshots(1, [2, 0])[:, 0].tolist() == [102.0, 100.0]
    assert sum(rows_read) == 2


def test_the_key_decides_the_folder_and_nothing_else_does(tmp_path):
    """Broken: experts of one kind of training would be used for another, or never found again."""
    first = ExpertStore(tmp_path, {"lr": 0.1, "data": "toy"}, "toy-net")
    assert ExpertStore(tmp_path, {"data": "toy", "lr": 0.1}, "toy-net").folder == first.folder
    for key in ({"data": "toy", "lr": 0.2}, {"data": "toy"}, {"data": "toy", "lr": 0.1, "momentum": 0.0}):
        assert ExpertStore(tmp_path, key, "toy-net").folder != first.folder


def test_a_tuple_in_the_key_does_not_make_the_store_look_foreign(tmp_path, expert, network):
    """Broken: options that are tuples become lists in JSON, and every second run would refuse its own cache."""
    key = {"mean": (0.1, 0.2)}
    ExpertStore(tmp_path, key, "toy-net").add(expert(0), network)
    assert sorted(ExpertStore(tmp_path, key, "toy-net").index()) == [0]


def test_an_expert_added_again_replaces_the_first(filled, expert, network):
    """Broken: retraining after a damage would not repair the store."""
    filled.add(expert(1, epochs=5), network)
    assert sorted(filled.index()) == [0, 1, 7]
    assert filled.source([1], network, CPU, torch.float32).num_epochs == 5


@pytest.mark.parametrize("damage", ["flip", "truncate", "remove"])
def test_a_damaged_expert_is_a_data_error_that_names_the_file(filled, network, damage):
    """Broken: students would follow a corrupted expert."""
    path = filled.folder / filled.index()[1].file
    data = bytearray(path.read_bytes())
    if damage == "remove":
        path.unlink()
    else:
        data[-3] ^= 0x10
        path.write_bytes(bytes(data) if damage == "flip" else bytes(data[:-9]))
    with pytest.raises(DataError, match=path.name):
        filled.source([0, 1, 7], network, CPU, torch.float32)
    assert filled.source([0, 7], network, CPU, torch.float32).num_experts == 2


def test_an_expert_that_is_not_there_is_a_data_error(filled, network):
    """Broken: a caller that asks for a missing seed would get a bare KeyError."""
    with pytest.raises(DataError, match="3"):
        filled.source([0, 3], network, CPU, torch.float32)


@pytest.mark.parametrize("other", [nn.Linear(4, 3), nn.Linear(7, 1)], ids=["other size", "other shapes"])
def test_experts_of_another_network_are_refused(filled, other):
    """Broken: a flat vector would be cut into the wrong tensors, of the right size even."""
    with pytest.raises(DataError, match="experts of another network; remove them: ddfw experts rm"):
        filled.source([0], Network(other), CPU, torch.float32)


def test_an_index_that_belongs_to_another_key_is_refused(filled, tmp_path):
    """Broken: a folder copied to another name would pass for other experts."""
    other = ExpertStore(tmp_path, {"data": "else"}, "toy-net")
    filled.folder.rename(other.folder)
    with pytest.raises(DataError, match="ddfw experts rm"):
        other.index()


@pytest.mark.parametrize(
    "spoil",
    [
        lambda v: v["experts"]["0"].pop("sha256"),
        lambda v: v["experts"]["0"].update(file="../../secret.safetensors"),
        lambda v: v["experts"].update({"x": v["experts"]["0"]}),
        lambda v: v["experts"]["0"].update(train_loss=None),
        lambda v: v.update(experts=[]),
        lambda v: v.pop("experts"),
        lambda v: v.update(schema=99),
    ],
    ids=["no hash", "path", "seed", "loss", "list", "nothing", "schema"],
)
def test_an_index_with_holes_or_strange_paths_is_a_data_error(filled, spoil):
    """Broken: a spoilt index would crash, or make ddfw open files outside the store."""
    path = filled.folder / "index.json"
    value = json.loads(path.read_text())
    spoil(value)
    path.write_text(json.dumps(value))
    with pytest.raises(DataError, match=r"index\.json"):
        filled.index()


def test_two_processes_that_add_at_the_same_time_lose_nothing(two_processes, network):
    """Broken: of two runs that share a cache, one would overwrite the other's index."""
    store = ExpertStore(two_processes / "experts", {"data": "toy"}, "toy-net")
    assert sorted(store.index()) == list(range(10))
    source = store.source(range(10), network, CPU, torch.float32)
    assert [float(source.snapshots(e, [0])[0, 0]) for e in range(10)] == [float(e) for e in range(10)]
    assert {s.name: len(s.experts) for s in list_stores(two_processes / "experts")} == {store.folder.name: 10}


def test_a_store_that_may_only_be_read_is_used_with_the_claims_that_lie_in_it(filled, monkeypatch):
    """Broken: experts that all are there could not be read, since a killed run of another user left its claim."""
    (filled.folder / "expert-3.lock").write_text("1 elsewhere\n")

    def refused(path, flags, *mode):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", refused)
        filled.tidy()
    assert (filled.folder / "expert-3.lock").exists()
    filled.tidy()
    assert not (filled.folder / "expert-3.lock").exists()


def test_stores_are_listed_with_their_size_and_mean_last_accuracy(filled, tmp_path, expert, network):
    """Broken: `ddfw experts list` would show wrong figures."""
    other = ExpertStore(tmp_path, {"data": "else"}, "else-net")
    other.add(expert(3, epochs=2), network)
    (tmp_path / "notes").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "index.json").write_text("{")
    found = {s.name: s for s in list_stores(tmp_path)}
    broken = found.pop("broken")
    assert "ddfw experts rm broken" in broken.problem and not broken.experts
    assert sorted(found) == sorted([filled.folder.name, other.folder.name])
    assert not any(s.problem for s in found.values())
    summary = found[filled.folder.name]
    assert (len(summary.experts), summary.epochs) == (3, 3)
    assert summary.validation_accuracy == pytest.approx(0.3)
    assert summary.bytes == sum(p.stat().st_size for p in filled.folder.glob("expert-*"))
    assert found[other.folder.name].validation_accuracy == pytest.approx(0.2)


def test_listing_a_folder_that_is_not_there_gives_nothing(tmp_path):
    """Broken: `ddfw experts list` would fail before the first run."""
    assert list_stores(tmp_path / "none") == []


def test_removing_a_store_frees_its_bytes_and_leaves_the_others(filled, tmp_path, expert, network):
    """Broken: the cache could not be emptied, or more than one store would go."""
    other = ExpertStore(tmp_path, {"data": "else"}, "else-net")
    other.add(expert(3), network)
    size = sum(p.stat().st_size for p in filled.folder.glob("expert-*"))
    assert remove_store(tmp_path, filled.folder.name) == size
    assert not filled.folder.exists()
    assert sorted(other.index()) == [3]


def test_a_store_that_holds_other_things_is_not_removed(filled, tmp_path):
    """Broken: a user's notes would be deleted with the experts."""
    notes = filled.folder / "notes.txt"
    notes.write_text("mine")
    with pytest.raises(DataError, match=r"notes\.txt"):
        remove_store(tmp_path, filled.folder.name)
    assert notes.read_text() == "mine"
    assert sorted(filled.index()) == [0, 1, 7]


@pytest.mark.parametrize("name", ["nope", "../outside", "", ".", "..", "toy-net"])
def test_names_that_are_no_store_below_the_folder_remove_nothing(filled, tmp_path, expert, network, name):
    """Broken: `ddfw experts rm ../x` would delete a folder outside the cache."""
    inside = tmp_path / "root"
    ExpertStore(inside, {"a": 1}, "a").add(expert(0), network)
    outside = tmp_path / "outside"
    filled.folder.rename(outside)
    before = sorted(str(p) for p in tmp_path.rglob("*"))
    with pytest.raises(DataError, match="no expert store"):
        remove_store(inside, name)
    with pytest.raises(DataError, match="no expert store"):
        remove_store(inside, str(Path(outside).absolute()))
    assert sorted(str(p) for p in tmp_path.rglob("*")) == before
