"""`multiformation`: one stored image holds f×f small ones, each upsampled to full size.

    x_{f²n+p} = upsample(patch p of the stored image n)      bilinear, without aligned corners; p counts row by row

If f does not divide H, the stored image is padded below with f − (H mod f) rows of zeros before it is cut. If f does
not divide W, it is padded on the right in the same way. (The published code pads with 0.5.) With f = 1 the images are
those of `pixel`, but the number of images is reduced to pay for soft labels.

Shapes: m classes, n stored images in class order, C channels, H rows, W columns, h = ⌈H/f⌉ and w = ⌈W/f⌉ rows and
columns of a patch, B images of a batch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, final

import torch
from attrs import frozen
from attrs.validators import ge, le
from torch import Tensor
from torch.nn.functional import interpolate, pad

from ddfw import AbstractParameterization, Budget, ImageSpec, Layout, OptionError, ParamGroup, option
from ddfw_plugins.parameterizations._budget import would_fit
from ddfw_plugins.parameterizations._pixel_step import PER_IMAGE
from ddfw_plugins.parameterizations._resampling import upsample, upsampling

if TYPE_CHECKING:
    from ddfw import RealImages
    from ddfw.contracts.parameterization import Params


@final
@frozen(kw_only=True)
class MultiFormation(AbstractParameterization):
    """Stores several small images in one stored image, each enlarged to full size.

    A stored image holds f×f small ones.
    """

    name: ClassVar[str] = "multiformation"
    citation: ClassVar[str] = """@inproceedings{kim2022idc,
  title = {Dataset Condensation via Efficient Synthetic-Data Parameterization},
  author = {Kim, Jang-Hyun and Kim, Jinuk and Oh, Seong Joon and Yun, Sangdoo and Song, Hwanjun and Jeong, Joonhyun and
    Ha, Jung-Woo and Song, Hyun Oh},
  booktitle = {ICML},
  year = {2022}
}"""

    factor: int = option(2, validator=ge(1), help="f: each stored image is cut into f×f patches; 1: not cut")
    lr: float = option(10.0, validator=ge(0.0), help=f"learning rate of the decoded images, {PER_IMAGE}")
    momentum: float = option(0.5, validator=[ge(0.0), le(1.0)], help="momentum of the stored images")

    def layout(self, spec: ImageSpec, budget: Budget, label_floats_per_image: int) -> Layout:
        """The layout with the most stored images that fits the budget; each decodes to f² images."""
        most = min(self.factor, max(spec.height, spec.width) + 1)
        usable = [f for f in range(1, most) if _every_patch_has_pixels(f, spec)]
        if not _every_patch_has_pixels(self.factor, spec):
            raise OptionError(
                f"{self.factor} × {self.factor} patches of {spec.height} × {spec.width} pixels would leave "
                f"patches with nothing but padding; param.factor = {max(usable)} would fit",
                "factor",
            )
        left, price = (budget.ipc - 1) * spec.floats_per_image, budget.label_price(label_floats_per_image)
        with would_fit("factor", "=", max((f for f in usable if f * f * price <= left), default=0)):
            return Layout.largest(
                spec, budget, spec.floats_per_image, label_floats_per_image, images_per_sample=self.factor**2
            )

    def init(self, layout: Layout, real: RealImages, rng: torch.Generator) -> Params:
        """Starts from random real images of each class, one in each patch, scaled down by averaging.

        Rows and columns that fall into the padding are cut off.

        Returns:
            `images` [n, C, H, W].
        """
        spec, factor = layout.spec, self.factor
        small = real.images[real.pick(layout.images_per_class, rng)]
        height, width = -(-spec.height // factor), -(-spec.width // factor)
        small = interpolate(small, size=(height, width), mode="area")
        grid = small.unflatten(0, (-1, factor, factor)).permute(0, 3, 1, 4, 2, 5)
        whole = grid.reshape(-1, spec.channels, factor * height, factor * width)
        return {"images": whole[:, :, : spec.height, : spec.width].clone(memory_format=torch.contiguous_format)}

    def decode(self, params: Params, index: Tensor) -> Tensor:
        """Decodes images [B, C, H, W]; image i is patch i % f² of stored image i // f², upsampled."""
        factor = self.factor
        # On a CPU the gradient of indexing with [...] sums in the random order of threads, that of index_select does
        # not. On a GPU it does, unless executor.deterministic is set.
        stored = params["images"].index_select(0, index // factor**2)
        height, width = stored.shape[2:]
        padded = pad(stored, (0, -width % factor, 0, -height % factor))
        patches = padded.unflatten(3, (factor, -1)).unflatten(2, (factor, -1))
        patch = index % factor**2
        number = torch.arange(len(index), device=index.device)
        return upsample(patches[number, :, patch // factor, :, patch % factor], height, width)

    def direction(self, params: Params, gradients: Params) -> Params:
        """The change of stored images that moves decoded images as a step of `pixel` would, as far as it can."""
        gradient = gradients["images"]
        rows, columns = (self._inverse_gram(side).to(gradient) for side in gradient.shape[2:])
        return {"images": rows @ gradient @ columns}

    def param_groups(self, params: Params) -> tuple[ParamGroup, ...]:
        """One group: the stored images."""
        lr = self.lr * len(params["images"]) * self.factor**2
        return (ParamGroup(keys=("images",), lr=lr, momentum=self.momentum),)

    def _inverse_gram(self, side: int) -> Tensor:
        """(RᵀR)⁻¹ [side, side] (float64) of the matrix R that upsamples each patch of a column of a stored image."""
        patch = -(-side // self.factor)
        enlarge = upsampling(patch, side)
        grams = []
        for first in range(0, side, patch):
            there = enlarge[:, : min(patch, side - first)]  # padding at the end of the last patch is not stored
            grams.append(torch.linalg.inv(there.T @ there))
        inverse: Tensor = torch.block_diag(*grams)
        return inverse


def _every_patch_has_pixels(factor: int, spec: ImageSpec) -> bool:
    return all((factor - 1) * -(-side // factor) < side for side in (spec.height, spec.width))
