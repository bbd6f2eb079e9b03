"""Linear bases: published counts, decoding against loops and PyTorch's interpolation, a start that is exact."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from attrs import evolve

from ddfw import Budget, ImageSpec, OptionError, RealImages
from ddfw_plugins.parameterizations._resampling import least_squares, upsampling
from ddfw_plugins.parameterizations.linba import LinearBases, _leading

CIFAR = ImageSpec(channels=3, height=32, width=32, num_classes=10)
SMALL = ImageSpec(channels=3, height=8, width=7, num_classes=3)


def real_images(spec=SMALL, per_class=20, seed=0, dtype=torch.float64):
    rng = torch.Generator().manual_seed(seed)
    labels = torch.arange(spec.num_classes).repeat(per_class)
    images = torch.randn(len(labels), *spec.shape, generator=rng, dtype=torch.float64)
    return RealImages(images=images.to(dtype), labels=labels, num_classes=spec.num_classes)


def start(linba, budget=None, seed=1, real=None, spec=SMALL):
    layout = linba.layout(spec, budget or Budget(ipc=3), 0)
    return layout, linba.init(layout, real or real_images(spec), torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("accounting", "label_floats", "expected"),
    [("pixels", 10, 115), ("strict", 0, 115), ("strict", 10, (30720 - 16 * 768) // (10 * 26))],
)
def test_sixteen_half_size_bases_buy_the_published_number_of_images(accounting, label_floats, expected):
    """Broken: another number of images per class than ⌊(ipc·m·CHW − K·CHW/s²)/(m·K)⌋, or labels that nobody pays."""
    layout = LinearBases().layout(CIFAR, Budget(ipc=1, accounting=accounting), label_floats)
    assert layout.images_per_class == layout.samples_per_class == expected
    assert layout.parameter_floats == 16 * 768 + 10 * expected * 16


@pytest.mark.parametrize("accounting", ["strict", "pixels"])
@pytest.mark.parametrize(
    "linba",
    [LinearBases(), LinearBases(bases=5, downsample=1), LinearBases(bases=7, downsample=3, init_from="random")],
    ids=str,
)
def test_the_layout_is_the_largest_that_fits_and_init_stores_exactly_that(linba, accounting):
    """Broken: a layout over budget, room left for another image per class, or stored floats that differ."""
    budget = Budget(ipc=3, accounting=accounting)
    layout = linba.layout(SMALL, budget, 3)
    params = linba.init(layout, real_images(), torch.Generator().manual_seed(0))
    assert linba.stored_floats(params) == layout.parameter_floats
    charged = layout.strict_floats if accounting == "strict" else layout.parameter_floats
    assert charged <= budget.floats(SMALL) < charged + 3 * (linba.bases + budget.label_price(3))
    learned = {key for group in linba.param_groups(params) for key in group.keys}
    assert learned == {key for key, t in params.items() if t.is_floating_point()}
    assert params["bases"].shape[2:] == (-(-8 // linba.downsample), -(-7 // linba.downsample))


def test_decoding_combines_the_bases_and_then_upsamples():
    """Broken: another sum, another interpolation, corners aligned, or an index that is not honoured."""
    layout, params = start(LinearBases(bases=4))
    index = [layout.num_images - 1, 0, 5, 5]
    found = LinearBases(bases=4).decode(params, torch.tensor(index))
    for image, n in zip(found, index, strict=True):
        small = sum(a * b for a, b in zip(params["coefficients"][n], params["bases"], strict=True))
        expected = torch.nn.functional.interpolate(small[None], size=(8, 7), mode="bilinear", align_corners=False)[0]
        assert torch.allclose(image, expected, atol=1e-12)
    assert torch.equal(found[2], found[3])


def test_upsampling_two_pixels_to_four_gives_quarters():
    """Broken: pixel centres are not where PyTorch's align_corners=False puts them."""
    assert upsampling(2, 4).tolist() == [[1, 0], [0.75, 0.25], [0.25, 0.75], [0, 1]]
    for small, large in ((3, 8), (8, 15), (1, 5), (4, 4), (16, 32)):
        rows = torch.eye(small, dtype=torch.float64)[None]
        expected = torch.nn.functional.interpolate(rows, size=large, mode="linear", align_corners=False)[0].T
        assert torch.allclose(upsampling(small, large), expected, atol=1e-12)


def test_least_squares_undoes_upsampling():
    """Broken: real images would lose detail that the bases could hold."""
    small = torch.randn(2, 3, 4, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    large = torch.nn.functional.interpolate(small, size=(8, 7), mode="bilinear", align_corners=False)
    assert torch.allclose(least_squares(large, 4, 3), small, atol=1e-12)


@pytest.mark.parametrize(("rows", "columns"), [(30, 12), (9, 12), (12, 12)])
def test_the_bases_are_singular_vectors_with_fixed_signs(rows, columns):
    """Broken: another subspace, or signs that depend on the linear algebra library."""
    matrix = np.random.default_rng(0).normal(size=(rows, columns))
    expected = np.linalg.svd(matrix)[2][:4].T
    expected *= np.sign(np.take_along_axis(expected, np.abs(expected).argmax(0)[None], 0))
    assert np.allclose(_leading(torch.from_numpy(matrix), 4).numpy(), expected, atol=1e-10)


@pytest.mark.parametrize("downsample", [1, 2])
def test_images_that_a_few_bases_can_hold_are_held_exactly(downsample):
    """Broken: bases and coefficients do not belong together, their scales do not cancel, or classes are mixed up."""
    rng = torch.Generator().manual_seed(0)
    small = torch.randn(4, 3, -(-8 // downsample), -(-7 // downsample), generator=rng, dtype=torch.float64)
    basis = torch.nn.functional.interpolate(small, size=(8, 7), mode="bilinear", align_corners=False)
    labels = torch.arange(3).repeat(20)
    weights = torch.randn(60, 4, generator=rng, dtype=torch.float64) + 5 * labels[:, None]
    real = RealImages(images=torch.einsum("nk,kchw->nchw", weights, basis), labels=labels, num_classes=3)
    linba = LinearBases(bases=4, downsample=downsample)
    layout, params = start(linba, Budget(ipc=6), seed=5, real=real)
    picked = real.images[real.pick(layout.samples_per_class, torch.Generator().manual_seed(5))]
    assert torch.allclose(linba.decode(params, torch.arange(layout.num_images)), picked, atol=1e-9)


@pytest.mark.parametrize("init_from", ["real", "random"])
def test_coefficients_move_images_within_the_bases_span_and_bases_out_of_it(init_from):
    """Broken: both factors would take the same step, and images move twice as far as a rate says."""
    linba = LinearBases(bases=4, downsample=1, init_from=init_from)
    layout, params = start(linba, Budget(ipc=6))
    wanted = torch.randn(layout.num_images, *SMALL.shape, generator=torch.Generator().manual_seed(0)).double()
    a, b = params["coefficients"], params["bases"].flatten(1)
    found = linba.direction(
        params, {"coefficients": wanted.flatten(1) @ b.T, "bases": (a.T @ wanted.flatten(1)).view_as(params["bases"])}
    )
    span = torch.linalg.pinv(b) @ b
    assert torch.allclose(found["coefficients"] @ b, wanted.flatten(1) @ span, atol=1e-9)
    assert float((found["bases"].flatten(1) @ span).abs().max()) <= 1e-9 * float(found["bases"].abs().max())
    both = linba.param_groups(params)
    assert [group.lr for group in both] == [linba.lr * layout.num_images] * 2
    assert evolve(linba, lr_coefficients=0.25).param_groups(params)[1].lr == 0.25 * layout.num_images


def test_gradients_are_right_and_reach_only_the_coefficients_of_the_images_used():
    """Broken: decode detaches, or an image depends on another one's coefficients."""
    linba = LinearBases(bases=3)
    _, params = start(linba, Budget(ipc=1))
    leaves = [params[key].clone().requires_grad_() for key in ("bases", "coefficients")]

    def decode(bases, coefficients):
        return linba.decode({**params, "bases": bases, "coefficients": coefficients}, torch.tensor([4, 1, 4]))

    assert torch.autograd.gradcheck(decode, leaves)
    decode(*leaves).square().sum().backward()
    assert leaves[1].grad.abs().sum(dim=1).nonzero().flatten().tolist() == [1, 4]
    assert leaves[0].grad.abs().sum() > 0


@pytest.mark.parametrize("init_from", ["real", "random"])
def test_init_is_a_function_of_the_generator_alone(init_from):
    """Broken: global state would decide, two seeds would give one set, or the images' dtype would be lost."""
    linba, state = LinearBases(bases=4, init_from=init_from), torch.get_rng_state()
    real = real_images(dtype=torch.float32)
    one, same, other = (start(linba, seed=s, real=real)[1] for s in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(one[k], same[k]) for k in one)
    assert not torch.equal(one["coefficients"], other["coefficients"])
    assert linba.decode(one, torch.arange(3)).dtype == one["bases"].dtype == torch.float32


def test_what_does_not_fit_is_refused_with_what_would():
    """Broken: the error points at the wrong option, or names a way out that does not work or is not the largest."""
    with pytest.raises(OptionError, match="at most 48") as error:
        LinearBases(bases=49).layout(SMALL, Budget(ipc=50), 0)
    assert error.value.option == "bases"
    linba = LinearBases(bases=40)
    with pytest.raises(OptionError) as error:
        linba.layout(SMALL, Budget(ipc=1), 3)
    assert error.value.option == "bases"
    fewer = int(str(error.value).split("param.bases <= ")[1])
    ipc = int(str(error.value).split("budget.ipc >= ")[1].split()[0].rstrip(","))
    assert evolve(linba, bases=fewer).layout(SMALL, Budget(ipc=1), 3).images_per_class >= 1
    assert linba.layout(SMALL, Budget(ipc=ipc), 3).images_per_class >= 1
    with pytest.raises(OptionError):
        evolve(linba, bases=fewer + 1).layout(SMALL, Budget(ipc=1), 3)
    with pytest.raises(OptionError, match="9 real images") as error:
        start(LinearBases(bases=10), real=real_images(per_class=3))
    assert error.value.option == "bases"
