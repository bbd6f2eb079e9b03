"""The tables of a configuration that are no components: [run] [budget] [experts] [outer] [window] [gradient] [eval]."""

from __future__ import annotations

import math
from typing import Literal

from attrs import frozen
from attrs.validators import ge, gt, in_, le, lt, matches_re, optional

from ddfw.contracts.dataset import ImageSpec
from ddfw.options import option


@frozen(kw_only=True)
class RunSettings:
    """`[run]`."""

    recipe: str = option(
        "default",
        validator=matches_re(r"[A-Za-z0-9][A-Za-z0-9._-]*"),
        help="the recipe that the settings started from; a name, not a promise",
    )
    seed: int = option(0, validator=ge(0), help="seed of everything random except experts, splits and evaluation")
    precision: Literal["float32", "float64"] = option(
        "float32", validator=in_(("float32", "float64")), help="of all floating tensors"
    )
    keep_checkpoint: bool = option(
        True, help="keep the last checkpoint of a finished run, so that `ddfw extend` can continue it"
    )
    quick: bool = option(False, help="marks a run that `--quick` scaled down; its figures are not those of its recipe")


@frozen(kw_only=True)
class Budget:
    """`[budget]`: how many floats may be stored: ipc·m·C·H·W of them, whatever the parameterisation."""

    ipc: int = option(1, validator=ge(1), help="images per class that the budget would store as plain pixels")
    accounting: Literal["strict", "pixels"] = option(
        "strict",
        validator=in_(("strict", "pixels")),
        help="strict: floats of labels count towards the budget; pixels: they do not, as in most papers' tables",
    )

    def floats(self, spec: ImageSpec) -> int:
        """Number ipc·m·C·H·W of floats that may be stored for images of this shape and number of classes."""
        return self.ipc * spec.num_classes * spec.floats_per_image

    def label_price(self, label_floats_per_image: int) -> int:
        """Number of floats that the label of one image counts: `label_floats_per_image`, or 0 for `pixels`."""
        return label_floats_per_image if self.accounting == "strict" else 0


@frozen(kw_only=True)
class SharpnessSettings:
    """Settings of adaptive surrogate-gap minimisation (GSAM), which trains experts to flat minima.

    Args:
        rho: ρ, size of the step uphill, relative to the parameters.
        alpha: α, how much to subtract of the gradient's part that is orthogonal to the gradient uphill.
    Source: Du et al., Minimizing the Accumulated Trajectory Error (FTD), CVPR 2023, and its released code.
    """

    rho: float
    alpha: float


@frozen(kw_only=True)
class TrainingSettings:
    """Settings of SGD on labelled images.

    Args:
        epochs: number of passes over the images.
        lr: learning rate.
        momentum: momentum of SGD.
        weight_decay: weight decay; weight_decay · θ is added to the gradient.
        batch_size: images per step; the last batch of an epoch may be smaller.
        decay_after: number of epochs after which lr is divided by 10 and the momentum buffer set to 0; None: never.
        sharpness: settings of GSAM, whose gradient then replaces the plain one; None: plain SGD.
    """

    epochs: int
    lr: float
    momentum: float
    weight_decay: float
    batch_size: int
    decay_after: int | None = None
    sharpness: SharpnessSettings | None = None


@frozen(kw_only=True)
class ExpertSettings:
    """`[experts]`: how the expert networks are trained, whose trajectories the student has to match."""

    store: str = option(
        "",
        help="name of an imported store (`ddfw experts list`) whose experts are used instead of training some; the "
        "other settings of [experts] except count then have no effect",
    )
    count: int = option(10, validator=ge(1), help="number of experts; of an imported store, at most this many")
    seed: int = option(0, validator=ge(0), help="seed of the first expert; the next one has this plus 1, and so on")
    epochs: int = option(20, validator=ge(1), help="epochs of each expert, one checkpoint after each")
    lr: float = option(0.01, validator=gt(0.0), help="learning rate (SGD, constant)")
    momentum: float = option(0.0, validator=[ge(0.0), le(1.0)], help="momentum")
    weight_decay: float = option(0.0, validator=ge(0.0), help="weight decay")
    batch_size: int = option(256, validator=ge(1), help="images per step")
    optimiser: Literal["sgd", "gsam"] = option(
        "sgd",
        validator=in_(("sgd", "gsam")),
        help="sgd: plain SGD; gsam: SGD with adaptive surrogate-gap minimisation, as FTD trains experts",
    )
    gsam_rho: float = option(0.01, validator=gt(0.0), help="gsam only: ρ, the relative size of the step uphill")
    gsam_alpha: float = option(0.4, validator=ge(0.0), help="gsam only: α of the surrogate gap (DATM takes 0.3)")

    @property
    def training(self) -> TrainingSettings:
        """The settings of SGD for the experts."""
        return TrainingSettings(
            epochs=self.epochs,
            lr=self.lr,
            momentum=self.momentum,
            weight_decay=self.weight_decay,
            batch_size=self.batch_size,
            sharpness=SharpnessSettings(rho=self.gsam_rho, alpha=self.gsam_alpha) if self.optimiser == "gsam" else None,
        )


@frozen(kw_only=True)
class OuterSettings:
    """`[outer]`: the outer loop and the student's step."""

    steps: int = option(500, validator=ge(0), help="outer steps; 0 keeps the initial set")
    images: Literal["random", "recognised"] = option(
        "random",
        validator=in_(("random", "recognised")),
        help="real images to start from: random ones of each class, or random ones that the experts classify "
        "correctly; not used with init_from",
    )
    init_from: str = option(
        "",
        help="start from the images of this run, export, images*.pt or image folder instead of real images; a run of "
        "the same parameterisation and size also gives its parameters, labels and step size",
    )
    syn_steps: int = option(20, validator=ge(1), help="N, inner steps of the student")
    batch_syn: int = option(0, validator=ge(0), help="synthetic images per inner step; 0 takes all of them")
    segments_per_step: int = option(1, validator=ge(1), help="segments whose meta-gradients one outer step averages")
    step_size: float = option(0.01, validator=gt(0.0), help="initial inner step size a")
    step_size_lr: float = option(1e-5, validator=ge(0.0), help="learning rate of the step size a; 0 keeps a fixed")
    step_size_momentum: float = option(0.5, validator=[ge(0.0), le(1.0)], help="momentum of the step size a")
    step_size_floor: float = option(1e-4, validator=gt(0.0), help="smallest value of the step size a")
    skip_above: float | None = option(
        None, validator=optional(gt(0.0)), help="skip an outer step whose loss is above this or not a number"
    )
    ema: float = option(
        0.0,
        validator=[ge(0.0), lt(1.0)],
        help="decay of a running mean of the image parameters; the mean is then evaluated and saved; 0: no mean",
    )

    def __attrs_post_init__(self) -> None:
        if self.step_size < self.step_size_floor:
            raise ValueError(f"step_size {self.step_size:g} lies below step_size_floor {self.step_size_floor:g}")


@frozen(kw_only=True)
class WindowSettings:
    """`[window]`: the range of expert epochs in which segments start; its upper end grows during distillation."""

    min_start: int = option(0, validator=ge(0), help="earliest start epoch")
    start: int = option(1, validator=ge(1), help="exclusive upper end at the first outer step")
    max_start: int = option(5, validator=ge(1), help="exclusive upper end once grown")
    expand_steps: int = option(1, validator=ge(1), help="outer steps until the window is fully open; 1: from the start")

    def __attrs_post_init__(self) -> None:
        if not self.min_start < self.start <= self.max_start:
            raise ValueError(
                f"expected min_start < start <= max_start, got {self.min_start}, {self.start}, {self.max_start}"
            )

    def high(self, step: int) -> int:
        """Exclusive upper end of the window, in epochs, at outer step number `step` (0-based)."""
        grown = (self.max_start - self.start) * min(1.0, step / self.expand_steps)
        return self.start + math.floor(grown)


@frozen(kw_only=True)
class GradientSettings:
    """`[gradient]`: the method for the meta-gradient and the memory that it may use."""

    method: Literal["exact", "tesla"] = option(
        "exact",
        validator=in_(("exact", "tesla")),
        help="exact: the exact derivative; tesla: an approximation that leaves out the Hessian-vector products",
    )
    memory: int | Literal["auto"] = option(
        "auto",
        help="bytes for inner steps kept instead of recomputed; 0: recompute every step; auto: half of the memory that "
        "is available at the first step (four fifths on a GPU)",
    )
    tesla_form: Literal["datm", "released"] = option(
        "datm",
        validator=in_(("datm", "released")),
        help="tesla only: `released` halves the gradients of images and labels, as the first public code does",
    )

    def __attrs_post_init__(self) -> None:
        if isinstance(self.memory, int) and self.memory < 0:
            raise ValueError(f"memory must be >= 0, got {self.memory}")


@frozen(kw_only=True)
class EvalSettings:
    """`[eval]`: how fresh networks are trained to evaluate a set, and how the best outer step is selected."""

    networks: int = option(5, validator=ge(2), help="number of fresh networks trained in the final evaluation")
    seed: int = option(0, validator=ge(0), help="seed of the evaluation networks; independent of run.seed")
    epochs: int = option(300, validator=ge(1), help="epochs on a synthetic set or on a real one of the same budget")
    batch_size: int = option(256, validator=ge(1), help="images per step")
    momentum: float = option(0.9, validator=[ge(0.0), le(1.0)], help="momentum of SGD")
    weight_decay: float = option(5e-4, validator=ge(0.0), help="weight decay")
    decay: bool = option(True, help="divide the learning rate by 10 after half of the epochs")
    full_epochs: int = option(30, validator=ge(1), help="epochs on the full training split")
    full_lr: float = option(0.01, validator=gt(0.0), help="learning rate on the full training split")
    baseline_lrs: tuple[float, ...] = option(
        (0.01,), help="learning rates for the random real baselines; the best on the validation split is used"
    )
    baselines: tuple[str, ...] = option(
        ("random_real", "random_real_teacher", "kmeans_real_teacher", "herding_real_teacher", "full_data"),
        help="sets to compare with in the table (…_count: of as many images, others of as many floats; …_teacher: with "
        "the experts' labels): random_real, kmeans_real, herding_real, kmeans_pixels, herding_pixels, full_data, …",
    )
    every: int = option(50, validator=ge(1), help="outer steps between two evaluations on the validation split")
    select_networks: int = option(2, validator=ge(1), help="networks trained for each of these evaluations")
    select_epochs: int | None = option(
        None, validator=optional(ge(1)), help="epochs for an evaluation on the validation split; default: eval.epochs"
    )

    def __attrs_post_init__(self) -> None:
        if not self.baseline_lrs or not all(0 < lr < float("inf") for lr in self.baseline_lrs):
            raise ValueError("baseline_lrs needs at least one learning rate, all > 0 and finite")

    def small_set(self, lr: float, epochs: int | None = None) -> TrainingSettings:
        """Settings of SGD on a synthetic set, or on real images of the same budget.

        Args:
            lr: learning rate.
            epochs: number of epochs; None: `eval.epochs`.
        """
        return self._training(lr, self.epochs if epochs is None else epochs)

    def full_set(self) -> TrainingSettings:
        """Settings of SGD on the whole training split."""
        return self._training(self.full_lr, self.full_epochs)

    def _training(self, lr: float, epochs: int) -> TrainingSettings:
        return TrainingSettings(
            epochs=epochs,
            lr=lr,
            momentum=self.momentum,
            weight_decay=self.weight_decay,
            batch_size=self.batch_size,
            decay_after=epochs // 2 + 1 if self.decay else None,
        )
