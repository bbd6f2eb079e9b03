"""`fred`: images stored as the cosine coefficients in which the images of a class differ most.

    x_n[c] = Σ_j a_ncj φ_{p_j}      φ the orthonormal 2-D DCT-II basis, p the kept positions of the image's class

The paper does not say which images decide this; here it is all real training images of the class, at most 1,000.

Shapes: m classes, n images in class order, C channels, H rows, W columns, J kept positions, B images of a batch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, final

import torch
from attrs import frozen
from attrs.validators import ge, le
from torch import Tensor

from ddfw import AbstractParameterization, Budget, ImageSpec, Layout, OptionError, ParamGroup, option
from ddfw_plugins.parameterizations._budget import would_fit
from ddfw_plugins.parameterizations._pixel_step import PER_IMAGE

if TYPE_CHECKING:
    from ddfw import RealImages
    from ddfw.contracts.parameterization import Params

#: Largest number of real images of a class that decide which coefficients are kept.
FIT_IMAGES = 1_000


@final
@frozen(kw_only=True)
class FrequencyCoefficients(AbstractParameterization):
    """Stores of each image the frequencies in which its class varies most.

    These are cosine coefficients; the others are zero.
    """

    name: ClassVar[str] = "fred"
    citation: ClassVar[str] = """@inproceedings{shin2023fred,
  title = {Frequency Domain-based Dataset Distillation},
  author = {Shin, Donghyeok and Shin, Seungjae and Moon, Il-Chul},
  booktitle = {NeurIPS},
  year = {2023}
}"""

    coefficients: int = option(64, validator=ge(1), help="J, number of coefficients stored for one channel of an image")
    lr: float = option(
        10.0,
        validator=ge(0.0),
        help=f"learning rate of the coefficients, {PER_IMAGE}; the transform is orthonormal, so steps are as long as "
        "those of `pixel`; the paper's 1e8 for a transform without normalisation equals 2.4e4 / n here, on the AC "
        "coefficients of n images of 32×32 pixels",
    )
    momentum: float = option(0.5, validator=[ge(0.0), le(1.0)], help="momentum of the coefficients")

    def layout(self, spec: ImageSpec, budget: Budget, label_floats_per_image: int) -> Layout:
        """The layout with the most images that fits the budget; kept positions are integers and are not counted."""
        pixels = spec.height * spec.width
        if self.coefficients > pixels:
            raise OptionError(
                f"an image of {spec.height} × {spec.width} has {pixels} coefficients, not {self.coefficients}; at most "
                f"{pixels}",
                "coefficients",
            )
        left = budget.ipc * spec.floats_per_image - budget.label_price(label_floats_per_image)
        with would_fit("coefficients", "<=", left // spec.channels):
            return Layout.largest(spec, budget, spec.channels * self.coefficients, label_floats_per_image)

    def init(self, layout: Layout, real: RealImages, rng: torch.Generator) -> Params:
        """Starts from random real images of each class, of which the coefficients that vary most are kept.

        Returns:
            `coefficients` [n, C, J]; integer tables `positions` [m, J] (row · W + column, ascending) and `image_shape`
            [2], which is (H, W).
        """
        spec = layout.spec
        images = real.images[real.pick(layout.samples_per_class, rng)]
        rows = []
        for label in range(real.num_classes):
            members = (real.labels == label).nonzero().flatten().cpu()
            members = members[torch.randperm(len(members), generator=rng)[:FIT_IMAGES].sort().values]
            rows.append(_most_varying(real.images[members], self.coefficients))
        positions = torch.stack(rows).to(images.device)
        kept = positions.repeat_interleave(layout.samples_per_class, dim=0).unsqueeze(1)
        spectrum = (cosines(spec.height).to(images) @ images @ cosines(spec.width).to(images).T).flatten(2)
        return {
            "coefficients": spectrum.gather(2, kept.expand(-1, spec.channels, -1)),
            "positions": positions,
            "image_shape": torch.tensor((spec.height, spec.width)),
        }

    def decode(self, params: Params, index: Tensor) -> Tensor:
        """Decodes images [B, C, H, W] by the inverse transform of the kept coefficients."""
        coefficients, positions = params["coefficients"], params["positions"]
        height, width = params["image_shape"].tolist()
        kept = coefficients[index]
        where = positions[index // (len(coefficients) // len(positions))].unsqueeze(1).expand_as(kept)
        spectrum = kept.new_zeros(*kept.shape[:2], height * width).scatter(2, where, kept)
        images: Tensor = cosines(height).to(kept).T @ spectrum.unflatten(2, (height, width)) @ cosines(width).to(kept)
        return images

    def param_groups(self, params: Params) -> tuple[ParamGroup, ...]:
        """One group: the coefficients."""
        coefficients = params["coefficients"]
        return (ParamGroup(keys=("coefficients",), lr=self.lr * len(coefficients), momentum=self.momentum),)


def cosines(size: int) -> Tensor:
    """The orthonormal DCT-II matrix [size, size] (float64), whose row k is frequency k."""
    place = (torch.arange(size, dtype=torch.float64) + 0.5) * torch.pi / size
    matrix = torch.cos(torch.arange(size, dtype=torch.float64)[:, None] * place)
    unit: Tensor = matrix / matrix.norm(dim=1, keepdim=True)
    return unit


def _most_varying(images: Tensor, count: int) -> Tensor:
    """The cosine coefficients of largest variance over images [n, C, H, W].

    Of equal variances the lower frequency (row/H)² + (column/W)² is taken, and of equal frequencies the lower row.

    Returns:
        [count] positions row · W + column (int64), ascending, on the CPU.
    """
    height, width = images.shape[2:]
    grey = images.double().mean(dim=1)
    spectrum = (cosines(height).to(grey) @ grey @ cosines(width).to(grey).T).flatten(1).cpu()
    variance = spectrum.var(dim=0, correction=0)
    # Rounding gives constant coefficients a tiny variance, which is set to 0.
    variance[variance <= 1e-24 * spectrum.square().mean(dim=0).max()] = 0
    row, column = torch.arange(height)[:, None], torch.arange(width)
    by_frequency = ((row * width) ** 2 + (column * height) ** 2).flatten().argsort(stable=True)
    order = by_frequency[variance[by_frequency].argsort(descending=True, stable=True)]
    return order[:count].sort().values
