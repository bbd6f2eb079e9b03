"""Equal runs are equal byte for byte, and nothing outside a run is touched by it."""

from __future__ import annotations

import json
import random
import shutil

import numpy as np
import pytest
import torch

SET = ("params.safetensors", "images.safetensors", "labels.safetensors", "card.json")


def bytes_of(run, names=SET):
    return {name: (run / "synthetic" / name).read_bytes() for name in names}


def test_two_runs_with_one_seed_write_the_same_bytes(finished, streamed):
    """Broken: results could not be reproduced. Place, expert cache and output format differ here, the set may not."""
    assert bytes_of(finished.out) == bytes_of(streamed.out)
    pictures = [(r.out / "images" / "synthetic.png").read_bytes() for r in (finished, streamed)]
    assert pictures[0] == pictures[1]
    experts = [sorted(p.read_bytes() for p in r.experts.glob("*/expert-*")) for r in (finished, streamed)]
    assert experts[0] == experts[1] and len(experts[0]) == 2


def test_cached_experts_give_the_same_bytes_as_fresh_ones(ddfw, tiny, finished, here):
    """Broken: a result would depend on whether the cache was warm."""
    said = ddfw(*tiny, "--out", here / "run", "--experts-dir", finished.experts, "--json")
    assert {e["cached"] for e in said.events if e["event"] == "expert"} == {True}
    assert bytes_of(here / "run") == bytes_of(finished.out)


def test_a_resolved_configuration_repeats_its_run_byte_for_byte(ddfw, finished, here):
    """Broken: config.toml would not be the run that wrote it."""
    said = ddfw("run", finished.out / "config.toml", "--out", here / "run", "--experts-dir", here / "experts")
    assert said.code == 0, said.err
    assert bytes_of(here / "run") == bytes_of(finished.out)
    assert (here / "run" / "config.toml").read_bytes() == (finished.out / "config.toml").read_bytes()


def test_another_seed_gives_another_set(ddfw, tiny, finished, here):
    """Broken: the seed would do nothing, and the tests above would be worthless."""
    assert ddfw(*tiny, "-q", "--seed", "1", "--out", here / "run", "--experts-dir", finished.experts).code == 0
    for name in SET:
        assert bytes_of(here / "run")[name] != bytes_of(finished.out)[name]


def test_the_state_of_the_global_generators_neither_shapes_a_run_nor_is_touched_by_it(ddfw, tiny, finished, here):
    """Broken: other code in a notebook would change results, or a run would change that code's random numbers."""
    before = random.getstate(), np.random.get_state(), torch.get_rng_state()
    try:
        random.seed(99)
        np.random.seed(99)
        torch.manual_seed(99)
        states = random.getstate(), np.random.get_state(), torch.get_rng_state()
        assert ddfw(*tiny, "-q", "--out", here / "run", "--experts-dir", here / "experts").code == 0
        assert random.getstate() == states[0]
        after = np.random.get_state()
        assert after[0] == states[1][0] and (after[1] == states[1][1]).all() and after[2:] == states[1][2:]
        assert torch.equal(torch.get_rng_state(), states[2])
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])
        torch.set_rng_state(before[2])
    assert bytes_of(here / "run") == bytes_of(finished.out)


def test_the_number_of_threads_is_put_back(ddfw, tiny, here):
    """Broken: after a run, everything else in the process would be slower or faster."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert ddfw(*tiny, "-q", "--seed", "6", "--out", here / "run", "--experts-dir", here / "experts").code == 0
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_the_expert_cache_is_found_again_with_another_number_of_threads(ddfw, tiny, here):
    """Broken: experts would be trained anew on another machine or under another load, for the last digits of a mean."""
    tables = []
    before = torch.get_num_threads()
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            (facts,) = ddfw(*tiny, "--dry-run", "--json", "--experts-dir", here).events
            tables.append(facts["expert_folder"])
    finally:
        torch.set_num_threads(before)
    assert tables[0] == tables[1]


@pytest.fixture(scope="session")
def twins(ddfw, tiny, two_archives, tmp_path_factory):
    """Two runs, each with its own experts, on data that differ in their test labels only."""
    found = []
    for name, archive in zip(("plain", "permuted"), two_archives, strict=True):
        place = tmp_path_factory.mktemp(name)
        shutil.copy(archive, place / "digits.npz")
        said = ddfw(
            *tiny, "-q", "--data", "npz", "--data-root", place, "--set", "data.path=digits.npz",
            "--set", "data.max_value=16.0", "--out", place / "run", "--experts-dir", place / "experts",
        )  # fmt: skip
        assert said.code == 0, said.err
        found.append(place / "run")
    return found


def test_permuted_test_labels_change_nothing_that_is_learned_or_selected(twins):
    """Broken: the test split would have leaked into learning or selection – the worst mistake in this field."""
    first, second = twins
    names = SET[:3]
    assert bytes_of(first, names) == bytes_of(second, names)
    summaries = [json.loads((run / "summary.json").read_text()) for run in twins]
    assert summaries[0]["selected_step"] == summaries[1]["selected_step"]
    assert summaries[0]["step_size"] == summaries[1]["step_size"]
    assert [r["lr"] for r in summaries[0]["rows"]] == [r["lr"] for r in summaries[1]["rows"]]
    experts = [sorted(p.read_bytes() for p in run.parent.glob("experts/*/expert-*")) for run in twins]
    assert experts[0] == experts[1] and len(experts[0]) == 2


def test_permuted_test_labels_do_change_the_test_accuracies(twins):
    """Broken: the test above would compare two runs on the same data."""
    accuracies = [
        [json.loads(p.read_text())["accuracies"] for p in sorted((run / "eval").glob("*.json"))] for run in twins
    ]
    assert accuracies[0] != accuracies[1]


def test_the_test_split_is_read_exactly_once(twins, finished):
    """Broken: something besides the final table would look at the test split."""
    for run in (*twins, finished.out):
        assert json.loads((run / "manifest.json").read_text())["test_reads"] == 1
