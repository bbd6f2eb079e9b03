"""`linba`: images stored as linear combinations of a few bases that all classes share (addressable memories).

    x_n = upsample(Σ_k a_nk b_k)      bilinear, without aligned corners; bases are combined before upsampling

Two things differ from the paper: bases start as the leading right singular vectors of real images, and a step moves
the images as a step of `pixel` would, projected onto what bases and coefficients can express.

Shapes: m classes, n images in class order, K bases, C channels, H rows, W columns, h = ⌈H/s⌉ and w = ⌈W/s⌉ rows and
columns of a basis, D = C·h·w, B images of a batch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal, final

import torch
from attrs import frozen
from attrs.validators import ge, in_, le, optional
from torch import Tensor

from ddfw import AbstractParameterization, Budget, ImageSpec, Layout, OptionError, ParamGroup, option
from ddfw_plugins.parameterizations._budget import would_fit
from ddfw_plugins.parameterizations._pixel_step import PER_IMAGE, damped
from ddfw_plugins.parameterizations._resampling import least_squares, upsample, upsampling

if TYPE_CHECKING:
    from ddfw import RealImages
    from ddfw.contracts.parameterization import Params

#: Largest number of real images used to find the bases.
FIT_IMAGES = 10_000


@final
@frozen(kw_only=True)
class LinearBases(AbstractParameterization):
    """Stores images as linear combinations of a few small bases that all classes share."""

    name: ClassVar[str] = "linba"
    citation: ClassVar[str] = """@inproceedings{deng2022linba,
  title = {Remember the Past: Distilling Datasets into Addressable Memories for Neural Networks},
  author = {Deng, Zhiwei and Russakovsky, Olga},
  booktitle = {NeurIPS},
  year = {2022}
}"""

    bases: int = option(16, validator=ge(1), help="K, number of bases")
    downsample: int = option(2, validator=ge(1), help="s: bases have ⌈H/s⌉ rows and ⌈W/s⌉ columns; 1: those of images")
    init_from: Literal["real", "random"] = option(
        "real",
        validator=in_(("real", "random")),
        help="real: start from singular vectors of real images and projections onto them; random: start from noise",
    )
    lr: float = option(
        10.0, validator=ge(0.0), help=f"learning rate by which bases move the decoded images, {PER_IMAGE}"
    )
    lr_coefficients: float | None = option(
        None,
        validator=optional(ge(0.0)),
        help="learning rate by which coefficients move the decoded images, per image; default: lr",
    )
    momentum: float = option(0.5, validator=[ge(0.0), le(1.0)], help="momentum of bases and coefficients")

    def layout(self, spec: ImageSpec, budget: Budget, label_floats_per_image: int) -> Layout:
        """The layout with the most images whose coefficients fit the budget together with the bases."""
        height, width = self._basis_size(spec)
        size = spec.channels * height * width
        if self.bases > size:
            raise OptionError(
                f"{self.bases} bases of {size} floats are linearly dependent; at most {size} with downsample = "
                f"{self.downsample}",
                "bases",
            )
        left = budget.floats(spec) - spec.num_classes * budget.label_price(label_floats_per_image)
        with would_fit("bases", "<=", left // (size + spec.num_classes)):
            return Layout.largest(spec, budget, self.bases, label_floats_per_image, shared_floats=self.bases * size)

    def init(self, layout: Layout, real: RealImages, rng: torch.Generator) -> Params:
        """Starts from real images projected onto leading singular vectors of real images, or from noise.

        Bases and coefficients are scaled so that the mean square of the coefficients is 1/n.

        Returns:
            `bases` [K, C, h, w], `coefficients` [n, K] and the integer table `image_shape` [2], which is (H, W).

        Raises:
            OptionError: there are fewer real images than bases.
        """
        spec, (height, width) = layout.spec, self._basis_size(layout.spec)
        if self.init_from == "random":
            bases, coefficients = self._noise(layout, rng)
        else:
            picked = real.pick(layout.samples_per_class, rng)
            fit = torch.randperm(len(real.images), generator=rng)[:FIT_IMAGES]
            if len(fit) < self.bases:
                raise OptionError(f"{len(fit)} real images do not span {self.bases} bases; at most {len(fit)}", "bases")
            vectors = _leading(least_squares(real.images[fit], height, width).double().flatten(1), self.bases)
            projected = least_squares(real.images[picked], height, width).double().flatten(1) @ vectors
            scale = projected.square().sum().div(self.bases).sqrt()
            scale = torch.where(scale > 0, scale, torch.ones_like(scale))
            bases, coefficients = vectors.T * scale, projected / scale
        return {
            "bases": bases.to(real.images).view(self.bases, spec.channels, height, width).contiguous(),
            "coefficients": coefficients.to(real.images),
            "image_shape": torch.tensor((spec.height, spec.width)),
        }

    def decode(self, params: Params, index: Tensor) -> Tensor:
        """Decodes images [B, C, H, W] by combining the bases and upsampling the result."""
        bases = params["bases"]
        small = (params["coefficients"][index] @ bases.flatten(1)).view(-1, *bases.shape[1:])
        height, width = params["image_shape"].tolist()
        return upsample(small, height, width)

    def direction(self, params: Params, gradients: Params) -> Params:
        """Changes of bases and coefficients that move images as a step of `pixel` would, as far as they can.

        Coefficients move images within the span of the bases; bases move them out of it.
        """
        wide = {key: gradient.double() for key, gradient in gradients.items()}
        bases, coefficients = params["bases"].double(), params["coefficients"].double()
        height, width = params["image_shape"].tolist()
        rows, columns = upsampling(bases.shape[2], height).to(bases), upsampling(bases.shape[3], width).to(bases)
        rows, columns = rows.T @ rows, columns.T @ columns
        flat, seen = bases.flatten(1), (rows @ bases @ columns).flatten(1)
        gram = flat @ seen.T
        change = torch.linalg.inv(rows) @ wide["bases"] @ torch.linalg.inv(columns)
        inside = torch.linalg.solve(gram, wide["bases"].flatten(1) @ flat.T, left=False) @ flat
        energy = damped((coefficients.T @ coefficients).unsqueeze(0), gram.unsqueeze(0))[0]
        moved = {
            "bases": torch.linalg.solve(energy, change.flatten(1) - inside).view_as(bases),
            "coefficients": torch.linalg.solve(gram, wide["coefficients"], left=False),
        }
        return {key: value.to(gradients[key].dtype) for key, value in moved.items()}

    def param_groups(self, params: Params) -> tuple[ParamGroup, ...]:
        """Two groups: bases and coefficients, each with its own learning rate."""
        images = len(params["coefficients"])
        lr = self.lr if self.lr_coefficients is None else self.lr_coefficients
        return (
            ParamGroup(keys=("bases",), lr=self.lr * images, momentum=self.momentum),
            ParamGroup(keys=("coefficients",), lr=lr * images, momentum=self.momentum),
        )

    def _basis_size(self, spec: ImageSpec) -> tuple[int, int]:
        return -(-spec.height // self.downsample), -(-spec.width // self.downsample)

    def _noise(self, layout: Layout, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Random bases [K, D] and coefficients [n, K] whose combinations have mean square 1, like training images."""
        height, width = self._basis_size(layout.spec)
        size, count = layout.spec.channels * height * width, layout.num_images
        bases = torch.randn(self.bases, size, generator=rng, dtype=torch.float64)
        coefficients = torch.randn(count, self.bases, generator=rng, dtype=torch.float64)
        return bases * (count / self.bases) ** 0.5, coefficients / count**0.5


def _leading(rows: Tensor, count: int) -> Tensor:
    """The leading right singular vectors [D, count] of the matrix of rows [n, D] (float64), without subtracting a mean.

    They are computed from the smaller Gram matrix. The sign of each vector is chosen so that its largest entry is
    positive, since otherwise it would be arbitrary.
    """
    if len(rows) < rows.shape[1]:
        left = torch.linalg.eigh(rows @ rows.T).eigenvectors.flip(1)[:, :count]
        # QR also gives orthonormal vectors if the rank of the rows is below `count`.
        vectors: Tensor = torch.linalg.qr(rows.T @ left).Q
    else:
        vectors = torch.linalg.eigh(rows.T @ rows).eigenvectors.flip(1)[:, :count]
    peaks = vectors.gather(0, vectors.abs().argmax(dim=0, keepdim=True))
    return vectors * peaks.sign()
