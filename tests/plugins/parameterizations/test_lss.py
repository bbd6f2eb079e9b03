"""Low-rank spaces: budgets from arithmetic, decoding against einsum, full rank against pixels."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ddfw import Budget, ImageSpec, OptionError, RealImages
from ddfw_plugins.parameterizations.lss import LowRankSpace
from ddfw_plugins.parameterizations.pixel import Pixel

CIFAR = ImageSpec(channels=3, height=32, width=32, num_classes=10)
SMALL = ImageSpec(channels=3, height=8, width=6, num_classes=3)


def real_images(spec=SMALL, per_class=20, seed=0, dtype=torch.float64):
    rng = torch.Generator().manual_seed(seed)
    labels = torch.arange(spec.num_classes).repeat(per_class)
    rough = torch.randn(len(labels), spec.channels, 3, 3, generator=rng, dtype=torch.float64)
    images = torch.nn.functional.interpolate(rough, size=(spec.height, spec.width), mode="bicubic")
    return RealImages(images=images.to(dtype), labels=labels, num_classes=spec.num_classes)


def floats(params):
    return sum(t.numel() for t in params.values() if t.is_floating_point())


@pytest.mark.parametrize(
    ("ipc", "pairing", "strict", "pixels"),
    [
        (1, "own", 14, 14),
        (10, "own", 151, 158),
        (50, "own", 759, 798),
        (1, "all", 48, None),
        (10, "all", 524, None),
        (50, "all", 2644, None),
    ],
)
def test_the_reference_counts_of_images_per_class(ipc, pairing, strict, pixels):
    """Broken: rank 8, four subspaces on 3×32×32 buy another number of images than the published arithmetic."""
    lss = LowRankSpace(rank=8, subspaces=4, pairing=pairing)
    assert lss.layout(CIFAR, Budget(ipc=ipc), 10).images_per_class == strict
    if pixels is not None:
        assert lss.layout(CIFAR, Budget(ipc=ipc, accounting="pixels"), 10).images_per_class == pixels


@pytest.mark.parametrize("accounting", ["strict", "pixels"])
@pytest.mark.parametrize(
    "lss",
    [
        LowRankSpace(rank=4),
        LowRankSpace(rank=3, subspaces=3),
        LowRankSpace(rank_h=5, rank_w=2, rank_channels=2, subspaces=2, assign="class"),
        LowRankSpace(rank=2, subspaces=2, pairing="all"),
        LowRankSpace(ranks=(4, 2, 1), subspaces=2, assign="none"),
        LowRankSpace(ranks=(6, 2, 2), rotation="fixed"),
        LowRankSpace(rank_h=8, rank_w=6),
    ],
    ids=str,
)
def test_the_layout_is_the_largest_that_fits_and_init_stores_exactly_that(lss, accounting):
    """Broken: a layout over budget, room left for another image per class, or stored floats that differ."""
    budget = Budget(ipc=4, accounting=accounting)
    layout = lss.layout(SMALL, budget, 3)
    params = lss.init(layout, real_images(), torch.Generator().manual_seed(0))
    assert floats(params) == layout.parameter_floats == lss.stored_floats(params)
    charged = layout.strict_floats if accounting == "strict" else layout.parameter_floats
    per_image = layout.images_per_class // layout.samples_per_class
    price = SMALL.num_classes * (lss.resolve(SMALL).core_floats + per_image * budget.label_price(3))
    assert charged <= budget.floats(SMALL) < charged + price
    assert layout.label_floats == layout.num_images * 3
    assert int(params["counts"].sum()) == len(params["cores"]) == SMALL.num_classes * layout.samples_per_class
    assert params["counts"].sum(dim=1).tolist() == [layout.samples_per_class] * SMALL.num_classes
    images = lss.decode(params, torch.arange(layout.num_images))
    assert images.shape == (layout.num_images, *SMALL.shape) and images.dtype == torch.float64


def test_decoding_is_a_tucker_product_in_the_samples_own_subspace():
    """Broken: a wrong mode order, the wrong subspace, or a wrong index."""
    lss = LowRankSpace(rank_h=4, rank_w=3, rank_channels=2, subspaces=3)
    layout = lss.layout(SMALL, Budget(ipc=3), 0)
    params = lss.init(layout, real_images(), torch.Generator().manual_seed(1))
    p = {k: v.numpy() for k, v in params.items()}
    index = [layout.num_images - 1, 0, 5, 5]
    found = lss.decode(params, torch.tensor(index)).numpy()
    owner = [k for row in p["counts"] for k, n in enumerate(row) for _ in range(n)]
    for image, n in zip(found, index, strict=True):
        core = p["cores"][n].reshape(2, 4, 3)
        q, u, v = (p[m][owner[n]] for m in ("map_c", "map_h", "map_w"))
        assert np.allclose(image, np.einsum("abc,ia,jb,kc->ijk", core, q, u, v), atol=1e-12)
    assert (p["counts"] > 0).sum() > 3, "the test needs classes in several subspaces"


def test_pairing_all_decodes_every_core_in_every_subspace_in_class_order():
    """Broken: images of one core would be scattered over classes, or subspaces ignored."""
    lss = LowRankSpace(rank=3, subspaces=2, pairing="all")
    layout = lss.layout(SMALL, Budget(ipc=3), 0)
    params = lss.init(layout, real_images(), torch.Generator().manual_seed(1))
    p = {k: v.numpy() for k, v in params.items()}
    found = lss.decode(params, torch.arange(layout.num_images)).numpy()
    assert layout.images_per_class == 2 * layout.samples_per_class
    for i in range(layout.num_images):
        core = p["cores"][i // 2].reshape(3, 3, 3)
        expected = np.einsum("cab,ia,jb->cij", core, p["map_h"][i % 2], p["map_w"][i % 2])
        assert np.allclose(found[i], expected, atol=1e-12)
    # Subspaces start near each other (SVD signs aligned) but apart.
    distance = np.abs(found[0::2] - found[1::2]).mean() / np.abs(found).mean()
    assert 1e-3 < distance < 0.5


def test_initial_images_are_the_best_low_rank_view_of_real_images():
    """Broken: projection and mappers do not belong together, or classes are mixed up."""
    spec = ImageSpec(channels=1, height=8, width=8, num_classes=3)
    rng = torch.Generator().manual_seed(0)
    basis = torch.linalg.qr(torch.randn(8, 3, generator=rng, dtype=torch.float64)).Q
    labels = torch.arange(3).repeat(10)
    cores = torch.randn(30, 1, 3, 3, generator=rng, dtype=torch.float64) + labels[:, None, None, None] * 10
    real = RealImages(images=basis @ cores @ basis.T, labels=labels, num_classes=3)
    lss = LowRankSpace(rank=3)
    layout = lss.layout(spec, Budget(ipc=2), 0)
    params = lss.init(layout, real, torch.Generator().manual_seed(5))
    images = lss.decode(params, torch.arange(layout.num_images))
    picked = real.images[real.pick(layout.samples_per_class, torch.Generator().manual_seed(5))]
    assert torch.allclose(images, picked, atol=1e-10)


@pytest.mark.parametrize("rotation", ["learned", "fixed"])
def test_rotated_channels_have_ranks_of_their_own(rotation):
    """Broken: colour would get the detail of brightness, or the rotation would not be undone."""
    lss = LowRankSpace(ranks=(5, 2, 1), rotation=rotation)
    layout = lss.layout(SMALL, Budget(ipc=4), 0)
    params = lss.init(layout, real_images(), torch.Generator().manual_seed(0))
    assert params["cores"].shape[1] == 5 * 5 + 2 * 2 + 1
    assert ("map_c" in params) == (rotation == "learned")
    full = LowRankSpace(ranks=(8, 8, 8), rotation=rotation)
    wide = ImageSpec(channels=3, height=8, width=8, num_classes=3)
    real = real_images(wide)
    lay = full.layout(wide, Budget(ipc=3), 0)
    whole = full.init(lay, real, torch.Generator().manual_seed(0))
    picked = real.images[real.pick(lay.samples_per_class, torch.Generator().manual_seed(0))]
    assert torch.allclose(full.decode(whole, torch.arange(lay.num_images)), picked, atol=1e-10)


@pytest.mark.parametrize("assign", ["kmeans", "class", "none"])
def test_init_is_a_function_of_the_generator_alone(assign):
    """Broken: k-means or the pick would depend on global state, or two seeds would give one set."""
    lss = LowRankSpace(rank=3, subspaces=2, assign=assign)
    layout, real = lss.layout(SMALL, Budget(ipc=3), 0), real_images()
    state = torch.get_rng_state(), np.random.get_state()[1].copy()
    one, same, other = (lss.init(layout, real, torch.Generator().manual_seed(s)) for s in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state[0]) and (np.random.get_state()[1] == state[1]).all()
    assert all(torch.equal(one[k], same[k]) for k in one)
    assert not torch.equal(one["cores"], other["cores"])


def test_at_full_rank_nothing_but_the_images_is_stored():
    """Broken: identity mappers would be stored, counted or learned."""
    lss, real = LowRankSpace(rank_h=8, rank_w=6, subspaces=3), real_images()
    layout = lss.layout(SMALL, Budget(ipc=2), 0)
    params = lss.init(layout, real, torch.Generator().manual_seed(3))
    pixel = Pixel()
    pixel_layout = pixel.layout(SMALL, Budget(ipc=2), 0)
    pixels = pixel.init(pixel_layout, real, torch.Generator().manual_seed(3))
    assert [k for k in params if k.startswith("map_")] == []
    assert layout.parameter_floats == pixel_layout.parameter_floats
    index = torch.arange(layout.num_images)
    assert torch.equal(lss.decode(params, index), pixel.decode(pixels, index))
    assert len(lss.param_groups(params)) == 1


@pytest.mark.parametrize(
    ("lss", "budget", "label_floats", "words"),
    [
        (LowRankSpace(rank=6), Budget(ipc=1), 60, ["budget.ipc >= 2", "param.rank <= "]),
        (LowRankSpace(rank=4, subspaces=9), Budget(ipc=1), 10, ["param.subspaces <= ", "param.rank <= "]),
        (LowRankSpace(rank=6, pairing="all", subspaces=2), Budget(ipc=1), 60, ["budget.ipc >= "]),
    ],
)
def test_a_budget_that_is_too_small_says_what_would_fit_and_that_is_true(lss, budget, label_floats, words):
    """Broken: the error would name a way out that does not work, or the best one would not be the largest."""
    from attrs import evolve

    spec = ImageSpec(channels=1, height=8, width=8, num_classes=10)
    with pytest.raises(OptionError) as error:
        lss.layout(spec, budget, label_floats)
    text = str(error.value)
    for word in words:
        assert word in text
        number = int(text.split(word.rstrip("0123456789"))[1].split()[0].rstrip(",."))
        if "rank" in word:
            assert evolve(lss, rank=number).layout(spec, budget, label_floats).images_per_class >= 1
            with pytest.raises(OptionError):
                evolve(lss, rank=number + 1).layout(spec, budget, label_floats)
        elif "subspaces" in word:
            assert evolve(lss, subspaces=number).layout(spec, budget, label_floats).images_per_class >= 1
        else:
            assert lss.layout(spec, evolve(budget, ipc=number), label_floats).images_per_class >= 1
            with pytest.raises(OptionError):
                lss.layout(spec, evolve(budget, ipc=number - 1), label_floats)


def test_ranks_that_no_image_has_are_refused_with_their_option():
    """Broken: a rank above the side would give nonsense, or the error would point at the wrong option."""
    for lss, option in (
        (LowRankSpace(rank=7), "rank"),
        (LowRankSpace(rank=4, rank_h=9), "rank_h"),
        (LowRankSpace(rank=4, rank_channels=4), "rank_channels"),
        (LowRankSpace(ranks=(4, 4)), "ranks"),
        (LowRankSpace(ranks=(9, 4, 4)), "ranks"),
    ):
        with pytest.raises(OptionError) as error:
            lss.layout(SMALL, Budget(ipc=5), 0)
        assert error.value.option == option


def test_every_image_has_a_gradient_only_in_its_own_core_and_its_mappers():
    """Broken: decode detaches, or an image depends on another one's core."""
    lss = LowRankSpace(rank=3, subspaces=2)
    layout = lss.layout(SMALL, Budget(ipc=3), 0)
    params = lss.init(layout, real_images(), torch.Generator().manual_seed(0))
    leaves = {k: v.clone().requires_grad_() if v.is_floating_point() else v for k, v in params.items()}
    names = [k for k, v in leaves.items() if v.is_floating_point()]

    def decode(*tensors):
        return lss.decode({**leaves, **dict(zip(names, tensors, strict=True))}, torch.tensor([4]))

    assert torch.autograd.gradcheck(decode, [leaves[k] for k in names])
    decode(*[leaves[k] for k in names]).square().sum().backward()
    touched = leaves["cores"].grad.abs().sum(dim=1).nonzero().flatten().tolist()
    assert touched == [4]
    assert all(leaves[k].grad.abs().sum() > 0 for k in names)


def test_pixel_with_soft_labels_is_over_a_strict_budget_and_says_so():
    """Broken: plain pixels with soft labels would be refused, or their overdraft hidden."""
    layout = Pixel().layout(SMALL, Budget(ipc=2), 3)
    assert layout.over_budget and layout.strict_floats == 6 * 144 + 18 and layout.parameter_floats == 6 * 144
    assert not Pixel().layout(SMALL, Budget(ipc=2), 0).over_budget
