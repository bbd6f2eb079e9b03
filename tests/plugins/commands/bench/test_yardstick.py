"""The yardstick computes what it should: a benchmark against a wrong loop would say nothing."""

from __future__ import annotations

import copy

import pytest
import torch
from attrs import evolve

from ddfw import ImageSpec
from ddfw.engine.inner import Network
from ddfw.engine.metagradient import meta_gradient
from ddfw.testing._devices import _stand_in
from ddfw_plugins.commands.bench import yardstick
from ddfw_plugins.commands.bench.shapes import BENCH_SHAPES
from ddfw_plugins.commands.bench.work import bench_work
from ddfw_plugins.executors.arithmetic import arithmetic
from ddfw_plugins.models.convnet import ConvNet


def relative(found, wanted):
    """Error relative to the norm."""
    return float((found - wanted).norm() / wanted.norm())


@pytest.mark.parametrize("case", "abcdefgh")
def test_the_yardstick_computes_what_the_public_loop_does(golden, case):
    """Broken: the plain loop that ddfw is measured against is not trajectory matching."""
    d = golden(f"mtt_step_{case}")
    spec = ImageSpec(
        channels=int(d["channels"]),
        height=int(d["im_size"]),
        width=int(d["im_size"]),
        num_classes=int(d["num_classes"]),
    )
    module = ConvNet(
        depth=int(d["depth"]),
        width=int(d["width"]),
        norm="instance" if int(d["norm_is_instance"]) else "none",
        first_padding=int(d["first_conv_padding"]),
    ).build(spec)
    rows = [torch.from_numpy(r[:k]) for r, k in zip(d["step_indices"], d["step_sizes"], strict=True)]
    found = yardstick.plain_meta_gradient(
        module,
        *(torch.from_numpy(d[key]) for key in ("images", "labels")),
        torch.from_numpy(d["lr"]).clone(),
        *(torch.from_numpy(d[key]) for key in ("start_params", "target_params")),
        rows,
        lambda images, number: images,
    )
    assert relative(found.loss, torch.from_numpy(d["loss"])) < 1e-10
    assert relative(found.images, torch.from_numpy(d["grad_images"])) < 1e-10
    assert relative(found.step_size, torch.from_numpy(d["grad_lr"])) < 1e-10


@pytest.mark.parametrize("held", [0, 3, 1000])
def test_both_sides_of_the_benchmark_do_the_same_work(held):
    """Broken: ddfw is faster than the plain loop because it computes something else."""
    made = bench_work(BENCH_SHAPES["digits"], torch.float64, steps=6)
    context = made.context
    found = meta_gradient(
        Network(context.module), context.augmentation, context.loss, made.problem, [made.segment], held_steps=held
    )
    wanted = made.plain_gradient()
    assert relative(found.images, wanted.images) < 1e-12
    assert relative(found.step_size, wanted.step_size) < 1e-12
    assert relative(found.loss, wanted.loss) < 1e-12


def test_the_closed_forms_of_large_maps_do_the_same_work():
    """Broken: the layers that only large maps use (two-fold normalisation, halving) are wrong in a whole student."""
    shape = evolve(BENCH_SHAPES["cifar-ipc1"], width=32)  # 10·32·32·32 values: above the size from which they are used
    made = bench_work(shape, torch.float64, steps=2)
    context = made.context
    for held in (0, 2):
        found = meta_gradient(
            Network(context.module), context.augmentation, context.loss, made.problem, [made.segment], held_steps=held
        )
        wanted = made.plain_gradient()
        assert relative(found.images, wanted.images) < 1e-12
        assert relative(found.step_size, wanted.step_size) < 1e-12


def test_the_plain_epoch_stays_on_the_device():
    """Broken: `ddfw bench` ends on a GPU, because a sum of losses begins on the CPU."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = ConvNet(depth=1, width=4).build(ImageSpec(channels=1, height=8, width=8, num_classes=2))
    images, labels = torch.randn(12, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(12) % 2

    def losses(module, device):
        rng = torch.Generator().manual_seed(1)
        there = images.to(device), labels.to(device)
        return yardstick.plain_training(module, *there, 2, 0.1, 5, lambda x: x, rng)

    wanted = losses(copy.deepcopy(module), torch.device("cpu"))
    with _stand_in() as device:
        found = losses(module.to(device), device)
    assert found == pytest.approx(wanted, rel=1e-6)


def test_the_plain_loop_can_compute_as_pytorch_does_by_itself():
    """Broken: ddfw is compared with a loop that is slower than the one that people write."""
    backends = torch.backends

    def settings():
        return backends.cuda.matmul.allow_tf32, backends.cudnn.allow_tf32, backends.cudnn.benchmark

    before, none = settings(), (False, False, False)
    with arithmetic("ieee"):
        assert settings() == none
        for how, wanted in {
            "session": none,
            "ieee": none,
            "defaults": (False, True, False),
            "benchmark": (False, True, True),
        }.items():
            with yardstick.plain_settings(how):
                assert settings() == wanted
            assert settings() == none
        with pytest.raises(ZeroDivisionError), yardstick.plain_settings("benchmark"):
            raise ZeroDivisionError
        assert settings() == none
    assert settings() == before


def test_the_plain_epoch_learns():
    """Broken: the plain training loop trains nothing, so that its time means nothing."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = ConvNet(depth=1, width=8).build(ImageSpec(channels=1, height=8, width=8, num_classes=2))
    rng = torch.Generator().manual_seed(0)
    labels = torch.arange(64) % 2
    images = torch.randn(64, 1, 8, 8, generator=rng) + 2 * labels.view(-1, 1, 1, 1)
    losses = yardstick.plain_training(module, images, labels, 5, 0.1, 16, lambda x: x, rng)
    assert len(losses) == 5 and losses[-1] < 0.7 * losses[0]
