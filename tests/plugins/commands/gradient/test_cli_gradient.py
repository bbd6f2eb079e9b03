"""`ddfw gradient`: TESLA's meta-gradient beside the exact one, checked against an unroll under autograd."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.func import functional_call

from ddfw import ImageSpec
from ddfw.engine.inner import build_module
from ddfw_plugins.models.convnet import ConvNet

SMALL = [
    *("--param", "pixel", "--labels", "hard", "--traj", "mtt"),
    *(
        f"--set={setting}"
        for setting in (
            "model.depth=2", "model.width=4", "experts.count=1", "experts.epochs=3", "experts.lr=0.5",
            "experts.batch_size=64", "window.max_start=1", "executor.threads=1", "traj.expert_epochs=1",
        )
    ),
]  # fmt: skip
KEYS = {"start", "N", "a", "cosine", "norm_ratio", "relative_error", "step_size_ratio", "step_size_wrong_sign", "loss"}


@pytest.fixture(scope="session")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("gradient")


@pytest.fixture
def gradient(ddfw, place):
    """`ddfw gradient default` on one small expert."""

    def ask(*words):
        return ddfw("gradient", "default", *SMALL, "--experts-dir", place / "experts", *words)

    return ask


def record(said):
    assert said.code == 0 and said.err == "", said.err

    def forbidden(constant):
        raise AssertionError(f"{constant} is no JSON")

    return json.loads(said.out, parse_constant=forbidden)


def test_for_one_step_teslas_gradient_is_exact(gradient):
    """Broken: the two would be taken on different data, or a factor be lost; one step leaves nothing out."""
    found = record(gradient("--steps", "1", "--step-sizes", "0.01,0.5", "--draws", 2, "--json", "--augment", "dsa"))
    assert len(found["rows"]) == 4
    for row in found["rows"]:
        assert abs(row["cosine"] - 1) < 1e-9 and abs(row["norm_ratio"] - 1) < 1e-9
        assert abs(row["relative_error"]) < 1e-9 and abs(row["step_size_ratio"] - 1) < 1e-9
        assert row["step_size_wrong_sign"] == 0 and row["loss"] > 0


def test_rows_are_starts_by_steps_by_step_sizes(gradient):
    """Broken: a plot's points would be missing or mixed up."""
    found = record(gradient("--steps", "2,3", "--step-sizes", "0.01,0.1,1e-3", "--draws", 1, "--json"))
    assert [(r["start"], r["N"], r["a"]) for r in found["rows"]] == [
        (start, n, a) for start in ("early", "late") for n in (2, 3) for a in (0.01, 0.1, 0.001)
    ]
    assert all(set(row) == KEYS for row in found["rows"])
    assert (found["schema"], found["experts"], found["epochs"], found["images"], found["draws"]) == (1, 1, 3, 10, 1)
    assert found["precision"] == "float64" and found["parameters"] == 374 and "pixel" in found["run"]


def unrolled(images, classes, start, target, steps, a):
    """Loss and both gradients with respect to images and step size, from the formulas alone."""
    module = build_module(ConvNet(depth=2, width=4), ImageSpec(channels=1, height=8, width=8, num_classes=10)).double()
    shapes = [(n, p.shape) for n, p in module.named_parameters()]

    def slope(theta, x):
        pieces = theta.split([s.numel() for _, s in shapes])
        views = {n: p.view(s) for (n, s), p in zip(shapes, pieces, strict=True)}
        loss = torch.nn.functional.cross_entropy(functional_call(module, views, (x,)), classes)
        return torch.autograd.grad(loss, theta, create_graph=True)[0]

    distance = (start - target).square().sum()
    x, size = images.clone().requires_grad_(), torch.tensor(a, dtype=torch.float64, requires_grad=True)
    theta, points = start.clone().requires_grad_(), []
    for _ in range(steps):
        points.append(theta.detach())
        theta = theta - size * slope(theta, x)
    loss = (theta - target).square().sum() / distance
    exact = torch.autograd.grad(loss, (x, size))

    # TESLA: with G the sum of the steps' gradients, every point of the path taken as a constant.
    slopes = [slope(p.clone().requires_grad_(), x) for p in points]
    end = start - size * sum(g.detach() for g in slopes)
    (by_size,) = torch.autograd.grad((end - target).square().sum() / distance, size)
    outer = 2 * a * (end.detach() - target) / distance
    (by_images,) = torch.autograd.grad(-sum(g.dot(outer) for g in slopes), x)
    return float(loss.detach()), exact, (by_images, by_size)


@pytest.mark.parametrize(("start", "first"), [("early", 0), ("late", 2)])
def test_the_figures_are_those_of_a_direct_unroll(ddfw, gradient, place, here, start, first):
    """Broken: the figures of the comparison would be about another segment, set, or formula."""
    found = record(gradient("--steps", "4", "--step-sizes", "0.3", "--draws", 1, "--json"))
    (row,) = [r for r in found["rows"] if r["start"] == start]
    said = ddfw(
        "run", "default", *SMALL, "-q", "--set=outer.steps=0", "--set=eval.baselines=[]", "--set=eval.networks=2",
        "--set=eval.epochs=1", "--experts-dir", place / "experts", "--out", here / "run",
    )  # fmt: skip
    assert said.code == 0, said.err
    images = load_file(here / "run" / "synthetic" / "images.safetensors")["images"].double()
    store = Path(json.loads((here / "run" / "manifest.json").read_text())["experts"])
    path = load_file(store / "expert-0.safetensors")["snapshots"].double()
    loss, exact, tesla = unrolled(images, torch.arange(10), path[first], path[first + 1], 4, 0.3)
    (ex, ea), (tx, ta) = exact, tesla
    assert row["loss"] == pytest.approx(loss, rel=1e-10)
    assert row["cosine"] == pytest.approx(float((ex * tx).sum() / (ex.norm() * tx.norm())), abs=1e-9)
    assert row["norm_ratio"] == pytest.approx(float(tx.norm() / ex.norm()), rel=1e-9)
    assert row["relative_error"] == pytest.approx(float((tx - ex).norm() / ex.norm()), rel=1e-9)
    assert row["step_size_ratio"] == pytest.approx(float(ta / ea), rel=1e-9)
    assert row["step_size_wrong_sign"] == int(float(ta * ea) < 0)
    assert row["relative_error"] > 1e-4, "four steps have to show a difference"


def test_draws_are_averaged_and_repeatable(gradient):
    """Broken: a row would be one segment's, or another one each time."""
    words = ["--steps", "3", "--step-sizes", "0.1", "--json", "--augment", "dsa"]
    one, two = (record(gradient(*words, "--draws", n))["rows"][0] for n in (1, 2))
    assert one != two
    assert record(gradient(*words, "--draws", 2))["rows"][0] == two


def test_people_get_a_table(gradient):
    """Broken: only programs could read it."""
    said = gradient("--steps", "2", "--step-sizes", "0.1", "--draws", 1, "-q")
    assert said.code == 0 and said.err == "" and "\x1b" not in said.out
    assert "early" in said.out and "late" in said.out and "cosine" in said.out and "10 images" in said.out


def test_it_writes_nothing_but_experts(gradient, here):
    """Broken: looking at a gradient would leave a run behind."""
    assert gradient("--steps", "1", "--step-sizes", "0.1", "--draws", 1, "-q").code == 0
    assert list(here.iterdir()) == []


@pytest.mark.parametrize(
    "words",
    [
        ["--steps", "0"], ["--steps", "-2"], ["--steps", "1.5"], ["--steps", "a,b"], ["--steps", ""],
        ["--steps", "nan"], ["--steps", "2,,3"],
        ["--step-sizes", "0"], ["--step-sizes", "inf"], ["--step-sizes", "x"], ["--draws", "0"],
    ],
    ids=" ".join,
)  # fmt: skip
def test_numbers_that_mean_nothing_are_refused(gradient, words):
    """Broken: minutes of work would end in an internal error."""
    said = gradient(*words)
    assert said.code == 2 and said.out == "" and "internal error" not in said.err
    assert words[0] in said.err and len(said.err.splitlines()) <= 6


def test_experts_without_a_late_start_are_refused(gradient):
    """Broken: "late" would mean the same as "early"."""
    gradient("--set=traj.expert_epochs=3", "-q").refused(2, "experts.epochs")


def test_a_student_that_diverges_is_still_json(gradient):
    """Broken: `NaN` in the stream would stop every JSON reader but Python's."""
    found = record(gradient("--steps", "9", "--step-sizes", "1e200", "--draws", 1, "--json"))
    assert found["rows"][0]["cosine"] is None
