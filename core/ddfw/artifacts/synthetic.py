"""The learned set of a run on disk: the folder `synthetic/` with parameters, decoded images, labels and a card.

Shapes: n images, C channels, H rows, W columns, m classes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from attrs import field, frozen
from torch import Tensor, nn
from torch.utils.data import Dataset

from ddfw.artifacts import atomic
from ddfw.artifacts.image_set import ImageSet
from ddfw.artifacts.seal import spelt_alike
from ddfw.artifacts.tensor_file import refuse_not_finite
from ddfw.contracts.dataset import ImageSpec
from ddfw.contracts.records import Card, as_card
from ddfw.errors import DataError, DivergedError

if TYPE_CHECKING:
    from ddfw.contracts.augmentation import AbstractAugmentation
    from ddfw.contracts.dataset import AbstractDataset
    from ddfw.contracts.model import AbstractModel
    from ddfw.contracts.space import TrainingSpace

CARD_SCHEMA = 1


@frozen(kw_only=True, eq=False, slots=False)
class SyntheticSet(Dataset[tuple[Tensor, Tensor]]):
    """A learned set; it is a PyTorch `Dataset`, so that `DataLoader(learned)` gives batches of images and targets.

    Args:
        images: [n, C, H, W] in training space, in class order.
        targets: [n, m] label probabilities.
        step_size: the learned inner step size, which is the learning rate for networks trained on the set.
        step: the outer step whose images were selected.
        space: the training space: `space.encode` takes pixels to it, `space.decode` gives the pixels of its images.
        card: the content of card.json.
        augmentation: the augmentation that networks were trained with; None if its plugin is not installed.
        model: the network's component; None if its plugin is not installed.
        data: the data set's component, whose images `data.splits(root)` reads; None if its plugin is not installed.
    """

    images: Tensor = field(repr=False)
    targets: Tensor = field(repr=False)
    step_size: float
    step: int
    space: TrainingSpace
    card: Card = field(repr=False, converter=as_card)
    augmentation: AbstractAugmentation | None = None
    model: AbstractModel | None = None
    data: AbstractDataset | None = None

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.images[index], self.targets[index]

    @property
    def class_names(self) -> tuple[str, ...]:
        """The m names of the classes, in the order of the targets' columns."""
        return self.card.class_names

    def augment(self, images: Tensor, rng: torch.Generator | None = None) -> Tensor:
        """Augments a batch with new random draws of the run's augmentation.

        Args:
            images: [B, C, H, W] in training space.
            rng: a CPU generator for the draws; None: PyTorch's global generator.

        Returns:
            The augmented batch [B, C, H, W].

        Raises:
            DataError: the augmentation's plugin is not installed.
        """
        if self.augmentation is None:
            raise DataError(f"the augmentation {self._component('augment')} is not installed; `ddfw plugins` says why")
        n, c, h, w = images.shape
        draws = self.augmentation.draw((n, c, h, w), rng or torch.default_generator)
        return self.augmentation.apply(images, draws.to(images.device))

    def network(self, seed: int = 0, num_classes: int | None = None) -> nn.Module:
        """A fresh network of the run's architecture, float32, on the CPU.

        Args:
            seed: seed of its initial parameters.
            num_classes: number of outputs; None: the number of the set's classes.

        Returns:
            The initialised module.

        Raises:
            DataError: the network's plugin is not installed.
        """
        if self.model is None:
            raise DataError(f"the network {self._component('model')} is not installed; `ddfw plugins` says why")
        c, h, w = self.images.shape[1:]
        outputs = self.targets.shape[1] if num_classes is None else num_classes
        with torch.random.fork_rng(devices=[]):  # module constructors draw from the global generator
            module = self.model.build(ImageSpec(channels=c, height=h, width=w, num_classes=outputs))
        theta = self.model.init(module, torch.Generator().manual_seed(seed))
        torch.nn.utils.vector_to_parameters(theta, module.parameters())
        return module

    def _component(self, kind: str) -> str:
        return repr((self.card.component(kind) or {}).get("name", "?"))


def write_set(
    folder: Path,
    params: Mapping[str, Tensor],
    label_params: Mapping[str, Tensor],
    images: Tensor,
    targets: Tensor,
    space: TrainingSpace,
    card: Mapping[str, Any],
) -> dict[str, str]:
    """Writes a learned set: its tensor files and its card.

    `params.safetensors` holds the stored parameters of images and labels (`param.*`, `labels.*`); the number of its
    floating-point elements is the strict count of floats. `images.safetensors` and `labels.safetensors` hold what they
    decode to. `space.safetensors` is written for a training space with matrices.

    Args:
        folder: the `synthetic` folder of a run.
        params: parameters of the images, by name.
        label_params: parameters of the labels, by name.
        images: [n, C, H, W] decoded images in training space.
        targets: [n, m] label probabilities.
        space: the training space.
        card: the content of card.json without hashes.

    Returns:
        The sha256 of each file, by its name.

    Raises:
        DivergedError: a tensor is not finite; nothing is written.
    """
    content: dict[str, Mapping[str, Tensor]] = {
        "params": {
            **{f"param.{k}": v for k, v in params.items()},
            **{f"labels.{k}": v for k, v in label_params.items()},
        },
        "images": {"images": images},
        "labels": {"targets": targets},
        **({"space": matrices} if (matrices := space.tensors()) else {}),
    }
    for name, tensors in content.items():
        require_finite_set(tensors, f"{name}.safetensors")
    folder.mkdir(parents=True, exist_ok=True)
    hashes = {
        f"{name}.safetensors": atomic.write_tensors(
            folder / f"{name}.safetensors", tensors, {"schema": CARD_SCHEMA, "what": name}
        )
        for name, tensors in content.items()
    }
    whole = {**card, "sha256": dict(hashes)}
    hashes["card.json"] = atomic.write_json(folder / "card.json", sealed_card(whole))
    return hashes


def require_finite_set(tensors: Mapping[str, Tensor], file: str) -> None:
    """Refuses to write values that are not finite.

    Args:
        tensors: what would be written, by name.
        file: the file's name, for the message.

    Raises:
        DivergedError: a tensor is not finite.
    """
    for key, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise DivergedError(f"{file} is not written: its tensor {key!r} is not finite; lower the learning rates")


def _card_sha256(card: Mapping[str, Any]) -> str:
    """The hash of a card's content without the field in which this hash is stored."""
    content = {key: value for key, value in card.items() if key != "card_sha256"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def read_synthetic(folder: Path, card: Card) -> ImageSet:
    """Images and targets of a run's `synthetic` folder.

    Raises:
        DataError: a file is missing or damaged.
    """
    return ImageSet(
        images=atomic.read_tensors(folder / "images.safetensors", card.hashes["images.safetensors"])["images"],
        targets=atomic.read_tensors(folder / "labels.safetensors", card.hashes["labels.safetensors"])["targets"],
    )


def read_learned(run: str | Path) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Reads the stored tensors of a run: those of its parameterisation and those of its labels, by name.

    Raises:
        DataError: a file is missing or damaged, or holds values that are not finite.
    """
    folder = place if (place := Path(run) / "synthetic").is_dir() else Path(run)
    hashes = read_card(folder).hashes
    path = folder / "params.safetensors"
    stored = atomic.read_tensors(path, hashes.get("params.safetensors", ""))
    refuse_not_finite(path, stored)
    params = {k.removeprefix("param."): v for k, v in stored.items() if k.startswith("param.")}
    return params, {k.removeprefix("labels."): v for k, v in stored.items() if k.startswith("labels.")}


def sealed_card(card: Mapping[str, Any]) -> dict[str, Any]:
    """The card with the hash of its content added."""
    return {**card, "card_sha256": _card_sha256(card)}


def read_card(folder: Path) -> Card:
    """Reads the card of a folder and checks it against the hash that it holds.

    Raises:
        DataError: the card is missing, damaged or was edited.
    """
    path = folder / "card.json"
    card = atomic.read_json(path)
    if "card_sha256" not in card:
        raise DataError(f"{path} lacks or garbles 'card_sha256'")
    same = card["card_sha256"] == _card_sha256(card) and spelt_alike(path.read_bytes(), card)
    if not same:
        raise DataError(f"{path} is damaged or was edited: its content does not fit its card_sha256")
    return Card(card)


def space_of(card: Card, folder: Path) -> TrainingSpace:
    """The training space that a card describes; its matrices, if it has any, are read from the file beside the card.

    Raises:
        DataError: the file with the matrices is damaged.
        KeyError, TypeError, ValueError: the card's description is incomplete or wrong.
    """
    from ddfw.contracts.space import space_from_record

    matrices: Mapping[str, Tensor] = {}
    if "space.safetensors" in card.hashes:
        path = folder / "space.safetensors"
        matrices = atomic.read_tensors(path, card.hashes["space.safetensors"])
        refuse_not_finite(path, matrices)
        # A long vector of means alone would be taken for a matrix of its square's size.
        mean, upper = matrices["mean"], matrices["transform_upper"]
        if mean.ndim != 1 or upper.ndim != 1 or 2 * len(upper) != len(mean) * (len(mean) + 1):
            raise DataError(f"{path} holds matrices {tuple(mean.shape)} and {tuple(upper.shape)} that do not fit")
    return space_from_record(card["training_space"], matrices)
