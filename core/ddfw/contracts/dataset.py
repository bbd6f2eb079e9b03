"""Data sets, and the training images that parameterisations start from.

Shapes: n images, m classes, C channels, H rows, W columns.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from attrs import fields, frozen
from attrs.validators import ge, gt, in_, lt, optional

from ddfw.contracts.splits import ImageSpec, SealedSplit, Split, Splits
from ddfw.contracts.subsets import stratified_split
from ddfw.errors import OptionError
from ddfw.options import option

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@frozen(kw_only=True)
class RealImages:
    """The training split in training space.

    Args:
        images: [n, C, H, W] floating point.
        labels: [n] int64, the class of each image.
        num_classes: number m of classes.
        rank: [n] int64 on the CPU; `pick` takes images of smaller rank first. None: all images have the same rank.
    """

    images: Tensor
    labels: Tensor
    num_classes: int
    rank: Tensor | None = None

    def pick(self, per_class: int, rng: torch.Generator) -> Tensor:
        """Picks random images of each class, those of a smaller `rank` first.

        An image is picked twice only if its class has fewer than `per_class` images.

        Args:
            per_class: number of images to pick of each class.
            rng: CPU generator; the only source of randomness.

        Returns:
            [m · per_class] indices (int64) in class order.
        """
        import torch

        rows = []
        for label in range(self.num_classes):
            members = (self.labels == label).nonzero().flatten().cpu()
            rounds = -(-per_class // len(members))
            shuffled = [members[torch.randperm(len(members), generator=rng)] for _ in range(rounds)]
            if self.rank is not None:
                shuffled = [part[self.rank[part].argsort(stable=True)] for part in shuffled]
            rows.append(torch.cat(shuffled)[:per_class])
        return torch.cat(rows)


@frozen(kw_only=True)
class AbstractDataset(ABC):
    """A labelled image data set.

    Subclasses are `@final @frozen(kw_only=True)` and set `name`, the word that users type; `citation` is BibTeX.
    """

    name: ClassVar[str]
    citation: ClassVar[str] = ""

    split_seed: int = option(0, validator=ge(0), help="seed of the validation split, and of a test split drawn by ddfw")
    validation: float = option(
        0.1,
        validator=[gt(0.0), lt(1.0)],
        help="fraction of the training images used for validation, unless the data come with a validation split",
    )
    space: Literal["standard", "none", "zca"] = option(
        "standard",
        validator=in_(("standard", "none", "zca")),
        help="training space. standard: mean 0 and deviation 1 per channel; none: pixels in [0, 1]; zca: ZCA whitening",
    )
    zca_epsilon: float = option(
        0.1, validator=gt(0.0), help="zca only: added to the covariance's eigenvalues before the inverse square root"
    )

    classes: tuple[str | int, ...] | None = option(
        None,
        help='names or numbers (from 0) of the classes to keep, in their new order, as in ["cat", "dog"]; default: all',
    )
    per_class: int | None = option(
        None,
        validator=optional(ge(2)),
        help="random images to keep of each class, for training and validation together; default: all",
    )
    test_per_class: int | None = option(
        None, validator=optional(ge(1)), help="random test images to keep of each class; default: all"
    )

    def splits(self, root: Path | None) -> Splits:
        """Loads and checks the data set, and keeps what `classes`, `per_class` and `test_per_class` ask for.

        Args:
            root: the data root of the run (`--data-root` or DDFW_DATA); None if the user named none.

        Raises:
            DataError: files are missing, not the official ones, or damaged, or hold no data to learn from.
            OptionError: a class is unknown, or has fewer images than asked for.
        """
        inherited = {f.name for f in fields(type(self)) if f.inherited}
        # A data set may have its own option of one of these names, which then has another meaning.
        names = inherited & {"classes", "per_class", "test_per_class"}
        wanted: dict[str, Any] = {name: getattr(self, name) for name in names}
        found = self.load(root).checked()
        return found.narrowed(**wanted, validation_fraction=self.validation, seed=self.split_seed).annotated()

    def download(self, root: Path) -> None:
        """Downloads the official files into the data root; called only if the user asks for it (`--download`).

        Args:
            root: the data root; created if it does not exist.

        Raises:
            DataError: a file cannot be downloaded, or is not the official one.
            OptionError: the data set has nothing to download, which is the default.
        """
        raise OptionError(f"{self.name} has no public address to download from; leave --download out")

    @abstractmethod
    def load(self, root: Path | None) -> Splits:
        """Reads the whole data set; runs call `splits`, which then keeps the part that was asked for.

        Args:
            root: the data root of the run (`--data-root` or DDFW_DATA); None if the user named none.

        Returns:
            The three splits; `Splits.carve` makes them from a training and a test split.

        Raises:
            DataError: files are missing, not the official ones, or damaged; the text names the expected path and says
                how to get the files.
        """


__all__ = ["AbstractDataset", "ImageSpec", "RealImages", "SealedSplit", "Split", "Splits", "stratified_split"]
