"""Sets that networks are trained on for an evaluation: a learned one, and baselines of real images.

Shapes: n images, m classes.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

from attrs import frozen

from ddfw.contracts.executor import Crew, LabelledImages
from ddfw.contracts.records import Baseline
from ddfw.errors import config_error, did_you_mean
from ddfw.randomness import Stream, derive_seed, generator

if TYPE_CHECKING:
    from torch import Tensor

    from ddfw.contracts.dataset import RealImages
    from ddfw.engine.experts import ExpertTeachers
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
        Baseline(name="kmeans_real", title="k-means real images", selection="kmeans", compared_by="features"),
        Baseline(
            name="kmeans_real_teacher",
            title="k-means real + teacher labels",
            selection="kmeans",
            compared_by="features",
            labels="teacher",
        ),
        Baseline(name="herding_real", title="herding real images", selection="herding", compared_by="features"),
        Baseline(
            name="herding_real_teacher",
            title="herding real + teacher labels",
            selection="herding",
            compared_by="features",
            labels="teacher",
        ),
        Baseline(name="kmeans_pixels", title="k-means real images (pixels)", selection="kmeans"),
        Baseline(name="herding_pixels", title="herding real images (pixels)", selection="herding"),
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


def real_baselines(
    setup: Setup,
    asked: Sequence[Baseline],
    train: LabelledImages,
    experts: ExpertTeachers | None,
    size: Size,
    crew: Crew | None = None,
) -> list[Subject]:
    """Selected real images of each baseline that selects; the learning rate is the first of `eval.baseline_lrs`.

    Args:
        setup: configuration and data.
        asked: the baselines; one of all images is left out.
        train: the training split in training space.
        experts: give features to select by, and labels; None if no baseline needs experts.
        size: what the images have to be equal to, in floats or in number.
        crew: the processes that work on the run: rank 0 selects, and all ranks get the same images.
    """
    crew, features = crew or Crew(), None
    if crew.rank == 0 and any(baseline.compared_by == "features" for baseline in asked):
        assert experts is not None
        features = experts.features(train.images)
    found = []
    for baseline in asked:
        if baseline.selection == "all":
            continue
        per_class = baseline.images_per_class(setup.splits.spec, setup.config.budget, size.floats, size.per_class)
        rows = None
        if crew.rank == 0:
            values = features if baseline.compared_by == "features" else None
            seed = setup.config.run.seed
            rows = select_real(setup.real(train), baseline.selection, per_class, seed, values).tolist()
        found.append(_real_baseline(setup, baseline, train, experts, size, crew.share(rows)))
    return found


def _real_baseline(
    setup: Setup,
    baseline: Baseline,
    train: LabelledImages,
    experts: ExpertTeachers | None,
    size: Size,
    rows: Sequence[int],
) -> Subject:
    """The real images of these indices in the training split, with the labels of a baseline."""
    import torch

    config, spec, index = setup.config, setup.splits.spec, torch.tensor(rows)
    images, targets = train.images[index], train.targets[index]
    pixels = len(rows) * spec.floats_per_image
    over = baseline.equal == "floats" and len(rows) * baseline.price(spec, config.budget) > size.floats
    if baseline.labels == "teacher":
        assert experts is not None
        targets = experts.logits(images).softmax(dim=2).mean(dim=0)
    return Subject(
        name=baseline.name,
        data=LabelledImages(images=images, targets=targets),
        lr=config.eval.baseline_lrs[0],
        floats={"strict": pixels + len(rows) * baseline.label_floats(spec), "pixels": pixels},
        notes=("over the budget: one image per class is the least",) if over else (),
    )


def select_real(
    real: RealImages,
    how: Literal["random", "kmeans", "herding"],
    per_class: int,
    seed: int,
    values: Tensor | None = None,
) -> Tensor:
    """Indices [m · per_class] of real training images, class by class.

    `kmeans` takes the image nearest to the centre of each of `per_class` clusters of a class; `herding` takes, one
    after another, the image that brings the mean of those taken nearest to the mean of the class. Where a class has
    fewer images, they come again.

    Args:
        real: the training split.
        how: the selection.
        per_class: images of each class.
        seed: of random picks and of k-means.
        values: [n, d] by which k-means and herding compare the n images; None for those in training space.

    Source: herding: Welling, Herding Dynamical Weights to Learn, ICML 2009.
    """
    if how == "random":
        return real.pick(per_class, generator(seed, Stream.BASELINE))
    import torch

    rows = []
    values = real.images.flatten(1) if values is None else values
    for label in range(real.num_classes):
        members = (real.labels == label).nonzero().flatten().cpu()
        own = values[members.to(values.device)].float().cpu()
        count = min(per_class, len(members))
        chosen = _herded(own, count) if how == "herding" else _central(own, count, seed, label)
        repeats = -(-per_class // count)
        rows.append(members[chosen].repeat(repeats)[:per_class])
    return torch.cat(rows)


def _herded(values: Tensor, count: int) -> Tensor:
    """Greedy: after k picks of sum s, the image x that minimises ‖(k + 1)·mean − s − x‖, each at most once."""
    import torch

    mean, total = values.mean(dim=0), torch.zeros_like(values[0])
    free = torch.ones(len(values), dtype=torch.bool)
    chosen = []
    for k in range(count):
        distance = ((k + 1) * mean - total - values).square().sum(dim=1)
        pick = int(distance.masked_fill(~free, torch.inf).argmin())
        free[pick] = False
        total = total + values[pick]
        chosen.append(pick)
    return torch.tensor(chosen)


def _central(values: Tensor, count: int, seed: int, label: int) -> Tensor:
    """The image nearest to each k-means centre; one that is taken already gives way to the next nearest."""
    import torch
    from sklearn.cluster import KMeans

    state = derive_seed(seed, Stream.BASELINE, label) % 2**32
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # fewer different images than clusters; the picks below are different anyway
        found = KMeans(n_clusters=count, n_init=3, random_state=state).fit(values.numpy())
    centres = torch.from_numpy(found.cluster_centers_).to(values.dtype)
    distances = torch.cdist(centres, values)
    chosen: list[int] = []
    for row in distances:
        row[chosen] = torch.inf
        chosen.append(int(row.argmin()))
    return torch.tensor(chosen)
