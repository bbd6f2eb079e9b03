"""Training space: the normalisation that maps raw images to what networks see, and its inverse.

Shapes: n images, C channels, H rows, W columns, F = C·H·W values of one image.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal, final

import attrs
from attrs import field, frozen

from ddfw.errors import OptionError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

#: Largest F for ZCA, whose fit takes F³ operations and whose transform has F² numbers.
ZCA_LARGEST = 4096
#: Number of images that are transformed at once.
_CHUNK = 4096


class TrainingSpace(ABC):
    """An invertible map between raw images in [0, max_value] and the normalised images that networks are trained on."""

    kind: str
    max_value: float

    def encode(self, raw: Tensor, dtype: torch.dtype) -> Tensor:
        """Maps raw images [n, C, H, W] in [0, max_value] to training space, in `dtype`.

        Raises:
            ValueError: the images have another number of channels.
        """
        import torch

        normalise = self._normaliser(raw, dtype)
        # The images are mapped in pieces, or memory would hold several copies of a large data set.
        encoded = torch.empty(raw.shape, dtype=dtype, device=raw.device)
        for part, out in zip(raw.split(_CHUNK), encoded.split(_CHUNK), strict=True):
            out.copy_(normalise(part.to(dtype) / self.max_value))
        return encoded

    @abstractmethod
    def _normaliser(self, raw: Tensor, dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
        """The map from images [n, C, H, W] in [0, 1] and `dtype` to training space, on the device of `raw`."""

    @abstractmethod
    def decode(self, images: Tensor) -> Tensor:
        """Maps images [n, C, H, W] in training space to pixels, 0 black and 1 brightest.

        Learned images may leave [0, 1]; they are not clipped.
        """

    @abstractmethod
    def record(self) -> dict[str, Any]:
        """The numbers that define the space, without large tensors, as JSON-able values for the card."""

    def tensors(self) -> Mapping[str, Tensor]:
        """Tensors that are too large for the card, by name; if any, they are stored as `space.safetensors`."""
        return {}


@final
@frozen(kw_only=True)
class AffineSpace(TrainingSpace):
    """Training space by an affine map of each channel: (raw / max_value − mean) / std.

    Args:
        kind: `standard`, or `none` for mean 0 and std 1.
        max_value: the value of the brightest raw pixel.
        mean: C numbers, the means of the training images' channels in [0, 1].
        std: C numbers, the standard deviations of the training images' channels in [0, 1].
    """

    kind: Literal["standard", "none"]
    max_value: float
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def fit(cls, kind: Literal["standard", "none"], images: Tensor, max_value: float) -> AffineSpace:
        """Measures mean and standard deviation of raw training images [n, C, H, W] (float64 arithmetic)."""
        import numpy as np

        channels = images.shape[1]
        if kind == "none":
            return cls(kind=kind, max_value=max_value, mean=(0.0,) * channels, std=(1.0,) * channels)
        # numpy sums in the same order for any number of threads, so the last bit is the same on every machine.
        # The images are summed in pieces, since a float64 copy of 100,000 photographs would not fit into memory.
        raw = images.cpu().numpy()
        pieces = [raw[i : i + 1000] for i in range(0, len(raw), 1000)]
        count = raw.size / channels * max_value
        mean = sum(p.sum(axis=(0, 2, 3), dtype="float64") for p in pieces) / count
        centre = (mean * max_value).reshape(1, -1, 1, 1)
        square = sum(((p - centre) ** 2).sum(axis=(0, 2, 3)) for p in pieces) / (count * max_value)
        std = np.sqrt(square).clip(1e-6)
        return cls(kind=kind, max_value=max_value, mean=tuple(mean.tolist()), std=tuple(std.tolist()))

    def _normaliser(self, raw: Tensor, dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
        if raw.ndim != 4 or raw.shape[1] != len(self.mean):
            raise ValueError(f"expected images [n, {len(self.mean)}, H, W], got {tuple(raw.shape)}")
        mean, std = self._columns(raw.device, dtype)
        return lambda images: (images - mean) / std

    def decode(self, images: Tensor) -> Tensor:
        """Maps images [n, C, H, W] in training space to pixels images · std + mean, 1 = brightest."""
        mean, std = self._columns(images.device, images.dtype)
        return images * std + mean

    def record(self) -> dict[str, Any]:
        """Kind, maximum value, means and standard deviations as JSON-able values."""
        return attrs.asdict(self)

    def _columns(self, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        import torch

        mean, std = torch.tensor([self.mean, self.std], dtype=torch.float64).to(device, dtype).view(2, 1, -1, 1, 1)
        return mean, std


@final
@frozen(kw_only=True, eq=False)
class WhitenedSpace(TrainingSpace):
    """ZCA whitening, y = (x − mean) · U diag(1/√(S + ε)) Uᵀ for images in [0, 1] of covariance U diag(S) Uᵀ.

    The covariance is divided by n − 1. With the usual ε of 0.1 the variance of the result is below 1.

    Args:
        kind: `zca`.
        max_value: the value of the brightest raw pixel.
        epsilon: ε, added to the eigenvalues of the covariance.
        mean: [F] float64 on the CPU, the mean training image in [0, 1].
        transform: [F, F] float64 on the CPU, symmetric.
        inverse: [F, F] float64 on the CPU, the inverse U diag(√(S + ε)) Uᵀ of `transform`.
    Source: the whitening of kornia, as trajectory matching uses it.
    """

    kind: ClassVar[str] = "zca"  # type: ignore[misc]
    max_value: float
    epsilon: float
    mean: Tensor = field(repr=False)
    transform: Tensor = field(repr=False)
    inverse: Tensor = field(repr=False)

    @classmethod
    def fit(cls, images: Tensor, max_value: float, epsilon: float) -> WhitenedSpace:
        """Fits the whitening to raw training images [n, C, H, W] in [0, max_value], in float64 arithmetic.

        Raises:
            OptionError: the images have more than 4,096 values each, or there are fewer than two.
        """
        import torch

        features = images[0].numel()
        if features > ZCA_LARGEST:
            raise OptionError(
                f"zca takes the eigenvectors of a {features:,} × {features:,} matrix for images of {features:,} "
                f"values, and is refused above {ZCA_LARGEST:,}; take standard",
                "space",
            )
        if len(images) < 2:
            raise OptionError("zca needs at least two training images", "space")

        def scaled() -> Iterator[Tensor]:
            # The float64 images are computed in each pass again: for 50,000 photographs they would take a gigabyte.
            for part in images.split(_CHUNK):
                yield part.flatten(1).cpu().double() / max_value

        mean = torch.stack([part.sum(dim=0) for part in scaled()]).sum(dim=0) / len(images)
        covariance = torch.zeros(features, features, dtype=torch.float64)
        for part in scaled():
            centred = part - mean
            covariance += centred.T @ centred
        values, vectors = torch.linalg.eigh(covariance / (len(images) - 1))
        # Where pixels never change, rounding leaves eigenvalues like −1e-17.
        root = (values.clamp_min(0) + epsilon).sqrt()
        return cls(
            max_value=max_value,
            epsilon=epsilon,
            mean=mean,
            transform=_symmetric((vectors / root) @ vectors.T),
            inverse=_symmetric((vectors * root) @ vectors.T),
        )

    def _normaliser(self, raw: Tensor, dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
        mean, transform = (t.to(raw.device, dtype) for t in (self.mean, self.transform))
        return lambda images: ((images.flatten(1) - mean) @ transform).view(images.shape)

    def decode(self, images: Tensor) -> Tensor:
        """Maps images [n, C, H, W] in training space to pixels images · inverse + mean, 1 = brightest."""
        import torch

        mean, inverse = (t.to(images.device, images.dtype) for t in (self.mean, self.inverse))
        return torch.cat([p.flatten(1) @ inverse + mean for p in images.split(_CHUNK)]).view(images.shape)

    def record(self) -> dict[str, Any]:
        """Kind, maximum value and ε as JSON-able values."""
        return {"kind": self.kind, "max_value": self.max_value, "epsilon": self.epsilon, "file": "space.safetensors"}

    def tensors(self) -> Mapping[str, Tensor]:
        """`mean` [F] and `transform_upper` [F·(F + 1)/2], the rows of the symmetric transform's upper triangle."""
        return {"mean": self.mean, "transform_upper": self.transform[_upper(len(self.mean))]}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], max_value: float, epsilon: float) -> WhitenedSpace:
        """Rebuilds the space from what `tensors` returned; the inverse is computed again.

        Raises:
            ValueError: the shapes do not fit together, or the transform has no inverse.
        """
        import torch

        mean, upper = tensors["mean"].double(), tensors["transform_upper"].double()
        triangle = _upper(len(mean))
        if upper.shape != triangle[0].shape:
            raise ValueError(f"transform_upper has {upper.numel()} numbers, expected {triangle[0].numel()}")
        transform = torch.zeros(len(mean), len(mean), dtype=torch.float64)
        transform[triangle] = upper
        transform = _symmetric(transform)
        factor, failed = torch.linalg.cholesky_ex(transform)
        if failed:
            raise ValueError("the transform is not positive definite")
        inverse = torch.cholesky_inverse(factor)
        return cls(max_value=max_value, epsilon=epsilon, mean=mean, transform=transform, inverse=inverse)


def fit_space(
    kind: Literal["standard", "none", "zca"], images: Tensor, max_value: float, epsilon: float
) -> TrainingSpace:
    """Fits a training space to raw training images.

    Args:
        kind: `standard` (per-channel standardisation), `none` (pixels in [0, 1]) or `zca` (ZCA whitening).
        images: [n, C, H, W] in [0, max_value].
        max_value: the value of the brightest pixel.
        epsilon: added to the eigenvalues of the covariance; used by `zca` only.

    Raises:
        OptionError: `zca` for images of more than 4,096 values, or for fewer than two images.
    """
    if kind == "zca":
        return WhitenedSpace.fit(images, max_value, epsilon)
    return AffineSpace.fit(kind, images, max_value)


def same_space(one: TrainingSpace, other: TrainingSpace) -> bool:
    """Whether two spaces are the same map: equal records and equal tensors."""
    if one is other:
        return True
    mine, theirs = one.tensors(), other.tensors()
    alike = one.record() == other.record() and mine.keys() == theirs.keys()
    return alike and all(mine[key].equal(theirs[key]) for key in mine)


def space_key(kind: Literal["standard", "none", "zca"], max_value: float, epsilon: float) -> dict[str, Any]:
    """The settings of a space that do not follow from the data, as JSON-able values for the key of an expert store."""
    key = {"kind": kind, "max_value": max_value}
    return {**key, "epsilon": epsilon} if kind == "zca" else key


def space_from_record(record: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> TrainingSpace:
    """Rebuilds a space from what its `record` and `tensors` returned.

    Raises:
        KeyError, TypeError, ValueError: the record or the tensors are incomplete or wrong.
    """
    max_value = float(record["max_value"])
    if record["kind"] == "zca":
        return WhitenedSpace.from_tensors(tensors, max_value, float(record["epsilon"]))
    if record["kind"] not in ("standard", "none"):
        raise ValueError(f"an unknown training space {record['kind']!r}")
    return AffineSpace(
        kind=record["kind"],
        max_value=max_value,
        mean=tuple(map(float, record["mean"])),
        std=tuple(map(float, record["std"])),
    )


def _symmetric(matrix: Tensor) -> Tensor:
    """The matrix made exactly symmetric by copying its upper triangle, since rounding differs in the last bits."""
    return matrix.triu() + matrix.triu(1).T


def _upper(size: int) -> tuple[Tensor, ...]:
    """The row numbers and the column numbers of the upper triangle of a square matrix."""
    import torch

    return torch.triu_indices(size, size).unbind()
