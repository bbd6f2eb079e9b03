"""Runs that need the same experts at the same time share them."""

from __future__ import annotations

import os
import resource
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from ddfw.artifacts.expert_store import ExpertStore
from ddfw.contracts.executor import Crew, LabelledImages, TrainedExpert
from ddfw.engine.inner import Network
from ddfw.pipeline import experts as module
from ddfw.pipeline.experts import ensure_experts
from ddfw.pipeline.stopping import Stopping

NETWORK = Network(nn.Linear(3, 2))
DATA = LabelledImages(images=torch.zeros(4, 3), targets=torch.tensor([0, 0, 1, 1]))


def expert_of(seed):
    snapshots = torch.stack([torch.zeros(8), torch.full((8,), 1.0 + seed)])
    return TrainedExpert(seed=seed, snapshots=snapshots, validation_accuracy=(0.9,), train_loss=(1.0,))


class Session:
    """Trains experts at once, and notes what it was asked for and how many files were open then."""

    device = torch.device("cpu")

    def __init__(self):
        self.asked, self.opened = [], []

    def train_experts(self, settings, train, validation, seeds, on_epoch):
        self.asked.append(list(seeds))
        self.opened.append(len(os.listdir("/proc/self/fd")))
        for position, seed in enumerate(seeds):
            on_epoch(position, 1)
            yield expert_of(seed)


@pytest.fixture
def ask(tmp_path):
    """Asks for experts of some seeds; gives the session and the reports, as (seed, cached)."""
    store = ExpertStore(tmp_path, {"data": "toy"}, "toy-net")

    def inner(seeds, crew=None):
        session, reports = Session(), []
        experts = SimpleNamespace(epochs=1, training=None)
        config = SimpleNamespace(experts=experts, executor=SimpleNamespace(experts_at_once=1, experts_per_call=None))

        class Announce:
            def __call__(self, report):
                reports.append((report.seed, report.cached))

            def tick(self, *facts):
                pass

        ensure_experts(
            SimpleNamespace(config=config, network=NETWORK, dtype=torch.float32),
            SimpleNamespace(store=store, seeds=seeds),
            session,
            Announce(),
            DATA,
            DATA,
            stopping=Stopping(Crew()),
            crew=crew,
        )
        return session, reports

    inner.store = store
    return inner


def elsewhere(ask, monkeypatch, claim, seed):
    """While this run waits, another one that has claimed an expert stores it and gives up its claim."""

    def sleep(seconds):
        ask.store.add(expert_of(seed), NETWORK)
        claim.__exit__(None, None, None)

    monkeypatch.setattr(module.time, "sleep", sleep)


def test_an_expert_of_another_run_is_waited_for_and_no_session_is_asked_for_no_experts(ask, monkeypatch):
    """Broken: an executor that cannot train no experts at all would end the run while another one trains."""
    claim = ask.store.claimed(1)
    assert claim.__enter__()
    elsewhere(ask, monkeypatch, claim, 1)
    session, reports = ask([0, 1, 2])
    assert session.asked == [[0, 2]]
    assert reports == [(0, False), (2, False), (1, True)]
    assert not list(ask.store.folder.glob("expert-*.lock"))


def test_an_expert_of_another_run_is_reported_once_by_a_crew_too(ask, monkeypatch):
    """Broken: metrics.jsonl would have one expert twice, as found and as trained."""

    class Two(Crew):
        size = 2

    claim = ask.store.claimed(1)
    assert claim.__enter__()
    elsewhere(ask, monkeypatch, claim, 1)
    _, reports = ask([0, 1], Two())
    assert reports == [(0, False), (1, True)]


def test_many_experts_are_claimed_as_many_at_a_time_as_files_may_be_open(ask):
    """Broken: a run of a thousand experts on a GPU would end with "too many open files" before the first."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    own = len(os.listdir("/proc/self/fd"))
    limit = 2 * own + 20
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    try:
        session, reports = ask(list(range(limit)))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert [seed for seed, _ in reports] == list(range(limit))
    assert [len(seeds) for seeds in session.asked] == [limit // 2, limit // 2]


def test_claims_of_others_are_not_held_open(ask, monkeypatch):
    """Broken: a run beside one that trains a thousand experts would end with "too many open files"."""
    claims = [ask.store.claimed(seed) for seed in range(30)]
    assert all(claim.__enter__() for claim in claims)
    before = len(os.listdir("/proc/self/fd"))
    opened = []

    def sleep(seconds):
        opened.append(len(os.listdir("/proc/self/fd")))
        for seed, claim in enumerate(claims):
            ask.store.add(expert_of(seed), NETWORK)
            claim.__exit__(None, None, None)
        claims.clear()

    monkeypatch.setattr(module.time, "sleep", sleep)
    _, reports = ask(list(range(30)))
    assert all(cached for _, cached in reports)
    assert opened[0] <= before + 2
