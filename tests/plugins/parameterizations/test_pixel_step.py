"""Steps of factors: the pixels' step projected onto what factors can express, whatever their basis."""

from __future__ import annotations

import pytest
import torch

from ddfw import Budget, ImageSpec, RealImages
from ddfw_plugins.parameterizations import _pixel_step
from ddfw_plugins.parameterizations._cores import flatten_cores, unflatten_cores
from ddfw_plugins.parameterizations.fred import FrequencyCoefficients
from ddfw_plugins.parameterizations.linba import LinearBases
from ddfw_plugins.parameterizations.lss import LowRankSpace
from ddfw_plugins.parameterizations.multiformation import MultiFormation
from ddfw_plugins.parameterizations.pixel import Pixel

SPEC = ImageSpec(channels=2, height=9, width=7, num_classes=3)
ANY_BASIS = (
    LowRankSpace(rank=4),
    LowRankSpace(rank=6),
    LowRankSpace(rank=4, subspaces=2),
    LowRankSpace(rank=4, rank_channels=1, subspaces=3, assign="none"),
    LowRankSpace(rank_h=9, rank_w=3),
    LowRankSpace(rank=4, subspaces=2, pairing="all"),
    LowRankSpace(rank=3, rank_channels=1, subspaces=2, pairing="all"),
    LowRankSpace(ranks=(5, 3), subspaces=2),
    LowRankSpace(ranks=(4, 4)),
    LowRankSpace(ranks=(6, 2), rotation="fixed"),
    LinearBases(bases=4),
    LinearBases(bases=3, downsample=1),
)
EVERY = (
    *ANY_BASIS,
    Pixel(),
    FrequencyCoefficients(coefficients=20),
    MultiFormation(factor=2),
    MultiFormation(factor=3),
)


def name_of(param):
    return f"{param.name}-{getattr(param, 'pairing', '')}-{getattr(param, 'ranks', '')}-{param.lr:g}"


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Case:
    """A parameterisation after init, a little off it, so that no factor is orthonormal any more."""

    def __init__(self, param, seed=0):
        self.param = param
        real = RealImages(images=normal(60, *SPEC.shape), labels=torch.arange(3).repeat(20), num_classes=3)
        layout = param.layout(SPEC, Budget(ipc=2), 0 if param.name == "multiformation" else 20)
        params = param.init(layout, real, torch.Generator().manual_seed(seed))
        floats = {k: v for k, v in params.items() if v.is_floating_point()}
        self.floats = {k: v + 0.1 * normal(*v.shape, seed=i) for i, (k, v) in enumerate(floats.items())}
        self.tables = {k: v for k, v in params.items() if k not in floats}
        self.index = torch.arange(layout.num_images)
        self.wanted = normal(layout.num_images, *SPEC.shape, seed=9)

    def decode(self, floats):
        return self.param.decode({**floats, **self.tables}, self.index)

    def gradients(self, floats):
        """∂L/∂φ where ∂L/∂X is `wanted`."""
        return torch.func.vjp(self.decode, floats)[1](self.wanted)[0]

    def direction(self, floats):
        return dict(self.param.direction({**floats, **self.tables}, self.gradients(floats)))

    def moved(self, floats):
        """How decoded images move, to first order."""
        return self.push(floats, self.direction(floats))

    def push(self, floats, change):
        """J · change, from two pullbacks."""
        images, pull = torch.func.vjp(self.decode, floats)
        return torch.func.vjp(lambda u: pull(u)[0], torch.zeros_like(images))[1](change)[0]

    def projection(self):
        """`wanted`, projected onto all changes of images that the factors can make; from the dense JᵀJ."""
        jacobian = torch.func.jacrev(self.decode)(self.floats)
        j = torch.cat([jacobian[k].reshape(self.wanted.numel(), -1) for k in self.floats], dim=1)
        values, vectors = torch.linalg.eigh(j.T @ j)
        kept = values > 1e-10 * values.max()
        vectors, values = vectors[:, kept], values[kept]
        return (j @ (vectors @ ((vectors.T @ (j.T @ self.wanted.flatten())) / values))).view_as(self.wanted)


def apart(some, other):
    return float((some - other).norm() / other.norm())


@pytest.mark.parametrize("param", EVERY, ids=name_of)
def test_images_move_by_the_pixels_step_as_far_as_the_form_allows(param, monkeypatch):
    """Broken: a learning rate means something else for each parameterisation, rank and number of images."""
    monkeypatch.setattr(_pixel_step, "DAMPING", 0.0)
    monkeypatch.setattr(_pixel_step, "ITERATIONS", 200)
    case = Case(param)
    assert apart(case.moved(case.floats), case.projection()) <= 1e-9


@pytest.mark.parametrize("param", EVERY, ids=name_of)
def test_damping_changes_that_step_by_little(param):
    """Broken: what keeps weak directions in check costs ordinary ones their step."""
    case = Case(param)
    assert apart(case.moved(case.floats), case.projection()) <= 1e-2


def invertible(size, seed):
    """A well-conditioned matrix that is no rotation."""
    return torch.linalg.qr(normal(size, size, seed=seed)).Q @ torch.diag(torch.linspace(0.4, 2.5, size).double())


def other_basis(case):
    """The same images in other factors."""
    param, floats = case.param, dict(case.floats)
    if param.name == "linba":
        turn = invertible(param.bases, 3)
        floats["coefficients"] = floats["coefficients"] @ torch.linalg.inv(turn)
        floats["bases"] = torch.einsum("kj,jchw->kchw", turn, floats["bases"])
        return floats
    ranks = param.resolve(SPEC)
    subspaces = param.subspaces
    owner = torch.arange(subspaces).repeat(3).repeat_interleave(case.tables["counts"].flatten())
    if param.pairing == "all":
        owner = torch.zeros(len(floats["cores"]), dtype=torch.int64)
    shape = (ranks.channels, ranks.height, ranks.width)
    for axis, mode in enumerate(("c", "h", "w")):
        if f"map_{mode}" not in floats:
            continue
        turns = [invertible(shape[axis], 10 * axis + k) for k in range(subspaces)]
        if param.pairing == "all":  # one basis for all subspaces, since they share the cores
            turns = turns[:1] * subspaces
        if param.ranks is not None:
            # Each channel keeps leading rows and columns: bases change within these, channels in size alone.
            sizes = torch.linspace(0.4, 2.5, shape[axis], dtype=torch.float64)
            turns = [torch.diag(sizes) + 0.3 * t.triu(1) * (mode != "c") for t in turns]
        floats[f"map_{mode}"] = torch.stack([u @ t for u, t in zip(floats[f"map_{mode}"], turns, strict=True)])
        back = torch.stack([torch.linalg.inv(t) for t in turns])[owner]
        cores = _pixel_step.apply(unflatten_cores(floats["cores"], list(shape), param.ranks), mode, back)
        floats["cores"] = flatten_cores(cores, param.ranks)
    return floats


@pytest.mark.parametrize("param", ANY_BASIS, ids=name_of)
def test_a_step_is_the_same_in_every_basis_of_the_factors(param):
    """Broken: what is learned depends on how the same images happen to be factored."""
    case = Case(param)
    other = other_basis(case)
    assert apart(case.decode(other), case.decode(case.floats)) <= 1e-12, "the test has to start from the same images"
    assert any(apart(other[k], v) > 0.1 for k, v in case.floats.items())
    assert apart(case.moved(other), case.moved(case.floats)) <= 1e-9
    # Not to first order only: a whole step, as the optimiser takes it.
    ends = [
        case.decode({k: v - 0.05 * case.direction(start)[k] for k, v in start.items()})
        for start in (case.floats, other)
    ]
    assert apart(ends[0], ends[1]) <= 1e-9


def test_at_full_rank_stored_mappers_stay_and_images_take_the_pixels_step():
    """Broken: nearly full rank would not be nearly pixels."""
    case = Case(LowRankSpace(ranks=(9, 9)))
    assert {"map_c", "cores"} <= set(case.floats)
    assert apart(case.moved(case.floats), case.wanted) <= 1e-12


def test_a_direction_without_energy_does_not_run_away():
    """Broken: a mapper's column that no core uses is thrown anywhere by the first step, and the run diverges."""
    case = Case(LowRankSpace(rank=4))
    cores = case.floats["cores"].view(-1, 2, 4, 4).clone()
    cores[:, :, 3, :] *= 1e-9
    floats = {**case.floats, "cores": cores.flatten(1)}
    direction = case.direction(floats)
    assert all(bool(d.isfinite().all()) for d in direction.values())
    used = case.direction(case.floats)["map_h"].norm()
    assert float(direction["map_h"].norm()) <= 10 * float(used)
    floats["cores"] = torch.zeros_like(floats["cores"])
    assert all(bool(d.isfinite().all()) for d in case.direction(floats).values())


@pytest.mark.parametrize("param", EVERY, ids=name_of)
def test_directions_have_the_dtype_of_the_gradients(param):
    """Broken: a float32 run would be stopped by its optimiser, or quietly become another precision."""
    case = Case(param)
    wide = case.moved(case.floats)
    floats = {k: v.float() for k, v in case.floats.items()}
    case.wanted = case.wanted.float()
    assert {v.dtype for v in case.direction(floats).values()} == {torch.float32}
    assert apart(case.moved(floats).double(), wide) <= 1e-4
