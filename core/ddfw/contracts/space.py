"""Training space: where networks and synthetic images live, and the way back to pixels.

Shapes: n images, C channels, H rows, W columns, F = C·H·W values of one image.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal, final

import attrs
from attrs import field, frozen

from ddfw.errors import OptionError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

#: The eigen-decomposition of a ZCA fit takes F³ operations and its transform F² numbers.
ZCA_LARGEST = 4096
#: Images that are transformed at once.
_CHUNK = 4096


class TrainingSpace(ABC):
    """An invertible map between raw images in [0, max_value] and training space."""

    kind: str
    max_value: float

    @abstractmethod
    def encode(self, raw: Tensor, dtype: torch.dtype) -> Tensor:
        """Raw images [n, C, H, W] in [0, max_value] → training space, in `dtype`."""

    @abstractmethod
    def decode(self, images: Tensor) -> Tensor:
        """Training space [n, C, H, W] → pixels, 1 = brightest; learned images may leave [0, 1] and are not clipped."""

    @abstractmethod
    def record(self) -> dict[str, Any]:
        """What the card says of it, JSON-able."""

    def tensors(self) -> Mapping[str, Tensor]:
        """What is too large for the card; stored beside it as `space.safetensors` where there is any."""
        return {}


@final
@frozen(kw_only=True)
class AffineSpace(TrainingSpace):
    """Per-channel affine map.

    Args:
        kind: `standard` or `none`.
        max_value: what raw pixels are divided by first.
        mean: C numbers, of the training images in [0, 1].
        std: C numbers, likewise.
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
        # numpy sums in one order whatever the number of threads; a last bit would otherwise differ between machines.
        # In pieces, since float64 copies of 100,000 photographs would not fit.
        raw = images.cpu().numpy()
        pieces = [raw[i : i + 1000] for i in range(0, len(raw), 1000)]
        count = raw.size / channels * max_value
        mean = sum(p.sum(axis=(0, 2, 3), dtype="float64") for p in pieces) / count
        centre = (mean * max_value).reshape(1, -1, 1, 1)
        square = sum(((p - centre) ** 2).sum(axis=(0, 2, 3)) for p in pieces) / (count * max_value)
        std = np.sqrt(square).clip(1e-6)
        return cls(kind=kind, max_value=max_value, mean=tuple(mean.tolist()), std=tuple(std.tolist()))

    def encode(self, raw: Tensor, dtype: torch.dtype) -> Tensor:
        """(raw / max_value − mean) / std, channel by channel.

        Raises:
            ValueError: another number of channels.
        """
        import torch

        if raw.ndim != 4 or raw.shape[1] != len(self.mean):
            raise ValueError(f"expected images [n, {len(self.mean)}, H, W], got {tuple(raw.shape)}")
        mean, std = self._columns(raw.device, dtype)
        # In pieces, or a large data set would be held several times over.
        encoded = torch.empty(raw.shape, dtype=dtype, device=raw.device)
        for part, out in zip(_chunks(raw), _chunks(encoded), strict=True):
            out.copy_((part.to(dtype) / self.max_value - mean) / std)
        return encoded

    def decode(self, images: Tensor) -> Tensor:
        """The inverse, without the division by max_value."""
        mean, std = self._columns(images.device, images.dtype)
        return images * std + mean

    def record(self) -> dict[str, Any]:
        """All of it."""
        return attrs.asdict(self)

    def _columns(self, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        import torch

        def column(values: tuple[float, ...]) -> Tensor:
            return torch.tensor(values, dtype=torch.float64).to(device, dtype).view(1, -1, 1, 1)

        return column(self.mean), column(self.std)


@final
@frozen(kw_only=True, eq=False)
class WhitenedSpace(TrainingSpace):
    """ZCA whitening, y = (x − mean) · U diag(1/√(S + ε)) Uᵀ for images in [0, 1] of covariance U diag(S) Uᵀ.

    The covariance is divided by n − 1. With ε as large as usual (0.1) the result has not unit variance.

    Args:
        max_value: what raw pixels are divided by first.
        epsilon: ε.
        mean: [F] float64, on the CPU.
        transform: [F, F] float64, symmetric, on the CPU.
        inverse: [F, F] float64, its inverse U diag(√(S + ε)) Uᵀ.
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
        """Fits raw training images [n, C, H, W] (float64 arithmetic).

        Raises:
            OptionError: images of more than 4,096 values, or fewer than two images.
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
            # Made anew for each pass: float64 copies of 50,000 photographs are a gigabyte.
            for part in _chunks(images):
                yield part.flatten(1).cpu().double() / max_value

        mean = torch.stack([part.sum(dim=0) for part in scaled()]).sum(dim=0) / len(images)
        covariance = torch.zeros(features, features, dtype=torch.float64)
        for part in scaled():
            centred = part - mean
            covariance += centred.T @ centred
        values, vectors = torch.linalg.eigh(covariance / (len(images) - 1))
        # Rounding leaves eigenvalues of −1e-17 where pixels never change.
        root = (values.clamp_min(0) + epsilon).sqrt()
        return cls(
            max_value=max_value,
            epsilon=epsilon,
            mean=mean,
            transform=_symmetric((vectors / root) @ vectors.T),
            inverse=_symmetric((vectors * root) @ vectors.T),
        )

    def encode(self, raw: Tensor, dtype: torch.dtype) -> Tensor:
        """(raw / max_value − mean) · transform."""
        import torch

        mean, transform = (t.to(raw.device, dtype) for t in (self.mean, self.transform))
        encoded = torch.empty(raw.shape, dtype=dtype, device=raw.device)
        for part, out in zip(_chunks(raw), _chunks(encoded), strict=True):
            out.copy_((((part.to(dtype) / self.max_value).flatten(1) - mean) @ transform).view(part.shape))
        return encoded

    def decode(self, images: Tensor) -> Tensor:
        """Images · inverse + mean."""
        import torch

        mean, inverse = (t.to(images.device, images.dtype) for t in (self.mean, self.inverse))
        return torch.cat([p.flatten(1) @ inverse + mean for p in _chunks(images)]).view(images.shape)

    def record(self) -> dict[str, Any]:
        """Without the matrices."""
        return {"kind": self.kind, "max_value": self.max_value, "epsilon": self.epsilon, "file": "space.safetensors"}

    def tensors(self) -> Mapping[str, Tensor]:
        """`mean` [F] and `transform_upper` [F·(F + 1)/2], the rows of the symmetric transform's upper triangle."""
        rows, columns = _upper(len(self.mean))
        return {"mean": self.mean, "transform_upper": self.transform[rows, columns]}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], max_value: float, epsilon: float) -> WhitenedSpace:
        """What `tensors` gave, with the inverse computed anew.

        Raises:
            ValueError: tensors that do not belong together, or a transform without an inverse.
        """
        import torch

        mean, upper = tensors["mean"].double(), tensors["transform_upper"].double()
        rows, columns = _upper(len(mean))
        if upper.shape != rows.shape:
            raise ValueError(f"transform_upper has {upper.numel()} numbers, expected {rows.numel()}")
        transform = torch.zeros(len(mean), len(mean), dtype=torch.float64)
        transform[rows, columns] = upper
        transform = _symmetric(transform)
        factor, failed = torch.linalg.cholesky_ex(transform)
        if failed:
            raise ValueError("the transform is not positive definite")
        inverse = torch.cholesky_inverse(factor)
        return cls(max_value=max_value, epsilon=epsilon, mean=mean, transform=transform, inverse=inverse)


def fit_space(
    kind: Literal["standard", "none", "zca"], images: Tensor, max_value: float, epsilon: float
) -> TrainingSpace:
    """The training space of a kind, fitted to raw training images [n, C, H, W].

    Args:
        kind: per-channel standardisation, pixels in [0, 1], or ZCA.
        images: in [0, max_value].
        max_value: the brightest pixel.
        epsilon: of ZCA.

    Raises:
        OptionError: ZCA of images that are too large.
    """
    if kind == "zca":
        return WhitenedSpace.fit(images, max_value, epsilon)
    return AffineSpace.fit(kind, images, max_value)


def same_space(one: TrainingSpace, other: TrainingSpace) -> bool:
    """Whether two spaces map alike: the same record and, where there are matrices, the same matrices."""
    if one is other:
        return True
    mine, theirs = one.tensors(), other.tensors()
    alike = one.record() == other.record() and mine.keys() == theirs.keys()
    return alike and all(mine[key].equal(theirs[key]) for key in mine)


def space_key(kind: Literal["standard", "none", "zca"], max_value: float, epsilon: float) -> dict[str, Any]:
    """What of a space does not follow from the data, for the key of an expert store."""
    key = {"kind": kind, "max_value": max_value}
    return {**key, "epsilon": epsilon} if kind == "zca" else key


def space_from_record(record: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> TrainingSpace:
    """The space that `record` and `tensors` described.

    Raises:
        KeyError, TypeError, ValueError: they do not.
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


def _chunks(images: Tensor) -> Iterator[Tensor]:
    yield from images.split(_CHUNK)


def _symmetric(matrix: Tensor) -> Tensor:
    """The upper triangle on both sides: rounding leaves a product's last bits unsymmetric."""
    return matrix.triu() + matrix.triu(1).T


def _upper(size: int) -> tuple[Tensor, Tensor]:
    import torch

    rows, columns = torch.triu_indices(size, size)
    return rows, columns
