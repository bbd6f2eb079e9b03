"""Records that cross wings: each is made in one place and read where its class says.

Shapes: m classes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from attrs import frozen

if TYPE_CHECKING:
    from ddfw.contracts.dataset import ImageSpec
    from ddfw.contracts.settings import Budget


@frozen(kw_only=True)
class Baseline:
    """Real images that a learned set is compared with; the table of all stands in `pipeline.evaluation.baselines`.

    Read by the evaluator, the tables and the forecast.

    Args:
        name: what users write in `eval.baselines`; the `subject` of its rows.
        title: the words for it in tables.
        selection: how images are chosen: at random, nearest to the centres of k-means clusters, by herding, or all.
        labels: the images' own classes, or probabilities that the experts give.
        equal: what it has in common with the learned set: stored floats, or the number of images; `nothing` for all
            images.
    """

    name: str
    title: str
    selection: Literal["random", "kmeans", "herding", "all"]
    labels: Literal["hard", "teacher"] = "hard"
    equal: Literal["floats", "count", "nothing"] = "floats"

    def label_floats(self, spec: ImageSpec) -> int:
        """Floats that the label of one image stores: m probabilities of the teachers, 0 for a class."""
        return spec.num_classes if self.labels == "teacher" else 0

    def price(self, spec: ImageSpec, budget: Budget) -> int:
        """Floats that one image costs with its label, under the budget's accounting."""
        return spec.floats_per_image + budget.label_price(self.label_floats(spec))

    def images_per_class(self, spec: ImageSpec, budget: Budget, floats: int, per_class: int) -> int:
        """How many images of each class it has, at least one.

        Args:
            spec: shape of the images and number of classes.
            budget: says whether labels are paid for.
            floats: what may be stored, for `equal = "floats"`.
            per_class: images of each class in the learned set, for `equal = "count"`.
        """
        if self.equal == "count":
            return per_class
        return max(1, floats // (spec.num_classes * self.price(spec, budget)))
