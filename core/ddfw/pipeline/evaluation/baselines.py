"""Sets that networks are trained on for an evaluation: a learned one, and baselines of real images.

Shapes: n images, m classes.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

from attrs import frozen

from ddfw.contracts.executor import LabelledImages
from ddfw.contracts.records import Baseline
from ddfw.errors import config_error, did_you_mean
from ddfw.randomness import Stream, derive_seed, generator

if TYPE_CHECKING:
    from torch import Tensor

    from ddfw.contracts.dataset import RealImages
    from ddfw.contracts.labels import Teachers
    from ddfw.pipeline.prepare import Plan, Setup

#: What a learned set can be compared with, in the order of the table.
BASELINES: Mapping[str, Baseline] = {
    baseline.name: baseline
    for baseline in (
        Baseline(name="random_real", title="random real images", selection="random"),
        Baseline(
            name="random_real_teacher", title="random real + teacher labels", selection="random", labels="teacher"
        ),
        Baseline(name="random_real_count", title="random real, as many images", selection="random", equal="count"),
        Baseline(
            name="random_real_teacher_count",
            title="random real + teacher, as many",
            selection="random",
            labels="teacher",
            equal="count",
        ),
        Baseline(name="kmeans_real", title="k-means selection", selection="kmeans"),
        Baseline(name="herding_real", title="herding selection", selection="herding"),
        Baseline(name="full_data", title="full training data", selection="all", equal="nothing"),
    )
}


def asked_baselines(names: Sequence[str]) -> list[Baseline]:
    """The baselines of these names, in the order of the table.

    Args:
        names: `eval.baselines`, in any order.

    Raises:
        ConfigError: an unknown name; the nearest known one is suggested.
    """
    for name in names:
        if name not in BASELINES:
            known = ", ".join(BASELINES)
            raise config_error(
                "eval.baselines", f"unknown baseline {name!r}.{did_you_mean(name, BASELINES)} Known: {known}"
            )
    return [baseline for baseline in BASELINES.values() if baseline.name in names]


@frozen(kw_only=True)
class Subject:
    """A set of images that networks are trained on in an evaluation.

    Args:
        name: `distilled`, `given`, or the name of a baseline; the `subject` of its reports.
        data: images in training space, and targets.
        lr: learning rate of the networks.
        floats: floats that the set stores: {strict: with its labels, pixels: without}.
        step: the outer step at which it was learned, None for other sets.
        selected_by: which split chose the step or the learning rate.
        notes: sentences that a reader of its accuracy has to know.
    """

    name: str
    data: LabelledImages
    lr: float
    floats: Mapping[str, int]
    step: int | None = None
    selected_by: Literal["validation", "nothing"] = "validation"
    notes: tuple[str, ...] = ()

    @property
    def is_learned(self) -> bool:
        """Whether it is the set that is evaluated, and no baseline beside it."""
        return self.name not in BASELINES


def distilled(plan: Plan, images: Tensor, targets: Tensor, step_size: float, step: int) -> Subject:
    """A run's learned set; networks are trained with the step size that was learned with it."""
    layout = plan.layout
    notes = ["over the strict budget"] if layout.over_budget else []
    if plan.expert_set.imported:
        notes.append("imported experts may have seen the validation images that selected the step")
    return Subject(
        name="distilled",
        data=LabelledImages(images=images, targets=targets),
        lr=step_size,
        floats={"strict": layout.strict_floats, "pixels": layout.parameter_floats},
        step=step,
        notes=(*notes, *plan.splits.notes),
    )


def full_data(setup: Setup, train: LabelledImages) -> Subject:
    """The whole training split."""
    floats = setup.full_data_floats()
    return Subject(
        name="full_data",
        data=train,
        lr=setup.config.eval.full_lr,
        floats={"strict": floats, "pixels": floats},
        selected_by="nothing",
    )


@frozen(kw_only=True)
class Size:
    """The size that baselines get.

    Args:
        floats: how many floats a baseline of equal storage may store.
        per_class: how many images of each class a baseline of equal number has.
    """

    floats: int
    per_class: int


def size_of(setup: Setup, subject: Subject, *, own_budget: bool) -> Size:
    """The size of a subject: the configuration's budget if it was made for that, else the floats that it stores.

    Images that cannot be shared out evenly are rounded up, in favour of what it is compared with.
    """
    budget = setup.config.budget
    floats = budget.floats(setup.splits.spec) if own_budget else subject.floats[budget.accounting]
    return Size(floats=floats, per_class=-(-len(subject.data.images) // setup.splits.spec.num_classes))


def real_baseline(
    setup: Setup, baseline: Baseline, train: LabelledImages, teachers: Teachers | None, size: Size
) -> Subject:
    """Selected real images; the learning rate is the first of `eval.baseline_lrs`.

    Args:
        setup: configuration and data.
        baseline: which images, with which labels; not all of them.
        train: the training split in training space.
        teachers: label the images where the baseline has teacher labels.
        size: what the images have to be equal to, in floats or in number.
    """
    config, spec = setup.config, setup.splits.spec
    per_class = baseline.images_per_class(spec, config.budget, size.floats, size.per_class)
    assert baseline.selection != "all"
    rows = select_real(setup.real(train), baseline.selection, per_class, config.run.seed)
    images, targets = train.images[rows], train.targets[rows]
    pixels = len(rows) * spec.floats_per_image
    over = baseline.equal == "floats" and len(rows) * baseline.price(spec, config.budget) > size.floats
    if baseline.labels == "teacher":
        assert teachers is not None
        targets = teachers.logits(images).softmax(dim=2).mean(dim=0)
    return Subject(
        name=baseline.name,
        data=LabelledImages(images=images, targets=targets),
        lr=config.eval.baseline_lrs[0],
        floats={"strict": pixels + len(rows) * baseline.label_floats(spec), "pixels": pixels},
        notes=("over the budget: one image per class is the least",) if over else (),
    )


def select_real(real: RealImages, how: Literal["random", "kmeans", "herding"], per_class: int, seed: int) -> Tensor:
    """Indices [m · per_class] of real training images, class by class.

    `kmeans` takes the image nearest to the centre of each of `per_class` clusters of a class; `herding` takes, one
    after another, the image that brings the mean of those taken nearest to the mean of the class. Both work on the
    values of the images in training space. Where a class has fewer images, they come again.

    Args:
        real: the training split.
        how: the selection.
        per_class: images of each class.
        seed: of random picks and of k-means.
    Source: herding: Welling, Herding Dynamical Weights to Learn, ICML 2009.
    """
    if how == "random":
        return real.pick(per_class, generator(seed, Stream.BASELINE))
    import torch

    rows = []
    for label in range(real.num_classes):
        members = (real.labels == label).nonzero().flatten().cpu()
        features = real.images[members.to(real.images.device)].flatten(1).float().cpu()
        count = min(per_class, len(members))
        chosen = _herded(features, count) if how == "herding" else _central(features, count, seed, label)
        repeats = -(-per_class // count)
        rows.append(members[chosen].repeat(repeats)[:per_class])
    return torch.cat(rows)


def _herded(features: Tensor, count: int) -> Tensor:
    """Greedy: after k picks of sum s, the image x that minimises ‖(k + 1)·mean − s − x‖, each at most once."""
    import torch

    mean, total = features.mean(dim=0), torch.zeros_like(features[0])
    free = torch.ones(len(features), dtype=torch.bool)
    chosen = []
    for k in range(count):
        distance = ((k + 1) * mean - total - features).square().sum(dim=1)
        pick = int(distance.masked_fill(~free, torch.inf).argmin())
        free[pick] = False
        total = total + features[pick]
        chosen.append(pick)
    return torch.tensor(chosen)


def _central(features: Tensor, count: int, seed: int, label: int) -> Tensor:
    """The image nearest to each k-means centre; one that is taken already gives way to the next nearest."""
    import torch
    from sklearn.cluster import KMeans

    state = derive_seed(seed, Stream.BASELINE, label) % 2**32
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # fewer different images than clusters; the picks below are different anyway
        found = KMeans(n_clusters=count, n_init=3, random_state=state).fit(features.numpy())
    centres = torch.from_numpy(found.cluster_centers_).to(features.dtype)
    distances = torch.cdist(centres, features)
    chosen: list[int] = []
    for row in distances:
        row[chosen] = torch.inf
        chosen.append(int(row.argmin()))
    return torch.tensor(chosen)
