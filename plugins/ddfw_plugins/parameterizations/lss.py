"""`lss`: low-rank space sampling — many small cores in a few subspaces with shared dimension mappers.

    X_n = B_n ×_C Q_k ×_H U_k ×_W V_k      for sample n in subspace k

The paper describes the idea (several low-dimensional subspaces, shared dimension mappers, a basis vector per sample)
without equations; the equation above is ddfw's. The mapper of a mode at full rank is the identity, which is neither
stored nor learned, so that full rank in every mode gives `pixel`. With `ranks`, channels are rotated first, and rotated
channel j keeps its leading ranks[j] rows and columns, so that brightness can have more detail than colour.

Shapes: m classes, n samples in class order (within a class in subspace order), S subspaces, C channels, H rows, W
columns, r_c/r_h/r_w ranks, F floats of a core, B images of a batch.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, Literal, final

import torch
from attrs import evolve, frozen
from attrs.validators import ge, in_, le, optional
from torch import Tensor

from ddfw import AbstractParameterization, Budget, ImageSpec, Layout, OptionError, ParamGroup, option
from ddfw_plugins.parameterizations._cores import cosine_basis, flatten_cores, leading, project, unflatten_cores
from ddfw_plugins.parameterizations._pixel_step import PER_IMAGE, TuckerBlocks, conjugate_gradients, normal_matrix

if TYPE_CHECKING:
    from ddfw import RealImages
    from ddfw.contracts.parameterization import Params

#: Largest number of real images used to find subspaces.
FIT_IMAGES = 10_000
#: Number of principal components on which k-means groups images into subspaces.
PCA_COMPONENTS = 32


@frozen(kw_only=True)
class Ranks:
    """The ranks for one image shape.

    Args:
        channels: rank r_c of the channel mode.
        height: rank r_h of the row mode.
        width: rank r_w of the column mode.
        per_channel: spatial rank of each rotated channel, as in the option `ranks`; None without that option.
    """

    channels: int
    height: int
    width: int
    per_channel: tuple[int, ...] | None

    @property
    def core_floats(self) -> int:
        """Number F of floats of one core."""
        if self.per_channel is None:
            return self.channels * self.height * self.width
        return sum(min(r, self.height) * min(r, self.width) for r in self.per_channel)


@final
@frozen(kw_only=True)
class LowRankSpace(AbstractParameterization):
    """Stores images as small cores in a few low-rank subspaces.

    This is low-rank space sampling (LSS). The cores of a subspace share the mappers
    that expand rows, columns and channels to full size.
    """

    name: ClassVar[str] = "lss"
    citation: ClassVar[str] = """@inproceedings{kong2025lss,
  title = {Efficient Dataset Distillation through Low-Rank Space Sampling},
  author = {Kong, Hangyang and Zhou, Wenbo and He, Xuxiang and Tu, Xiaotong and Ding, Xinghao},
  booktitle = {ICASSP},
  year = {2025}
}"""

    rank: int = option(8, validator=ge(1), help="rank of rows and columns; full rank is the number of pixels of a side")
    rank_h: int | None = option(None, validator=optional(ge(1)), help="rank of rows, if it differs from `rank`")
    rank_w: int | None = option(None, validator=optional(ge(1)), help="rank of columns, if it differs from `rank`")
    rank_channels: int | None = option(
        None, validator=optional(ge(1)), help="rank of the channel mode; default: the number of channels (full rank)"
    )
    ranks: tuple[int, ...] | None = option(
        None, help="rank of rows and columns for each rotated channel, such as [12, 4, 4]; replaces the other ranks"
    )
    rotation: Literal["learned", "fixed"] = option(
        "learned",
        validator=in_(("learned", "fixed")),
        help="with `ranks`: how channels are rotated. learned: by principal components that are stored and learned; "
        "fixed: to a cosine basis",
    )
    subspaces: int = option(1, validator=ge(1), help="S, number of subspaces")
    pairing: Literal["own", "all"] = option(
        "own",
        validator=in_(("own", "all")),
        help="own: each of n cores is decoded in its own subspace to n images; all: in every subspace, to n·S images",
    )
    assign: Literal["kmeans", "class", "none"] = option(
        "kmeans",
        validator=in_(("kmeans", "class", "none")),
        help="how samples get their subspace. kmeans: by image content; class: by class; none: in turn",
    )
    perturb: float = option(
        0.1, validator=ge(0.0), help="pairing all: relative size of the noise that makes subspaces differ at the start"
    )
    lr: float = option(
        10.0, validator=ge(0.0), help=f"learning rate by which cores move the decoded images, {PER_IMAGE}"
    )
    lr_mappers: float | None = option(
        None,
        validator=optional(ge(0.0)),
        help="learning rate by which mappers move the decoded images, per image; 0: fixed subspaces; default: lr",
    )
    momentum: float = option(0.5, validator=[ge(0.0), le(1.0)], help="momentum of cores and mappers")

    def __attrs_post_init__(self) -> None:
        if self.ranks is not None and (not self.ranks or min(self.ranks) < 1):
            raise ValueError(f"ranks needs one rank >= 1 for each channel, got {list(self.ranks)}")

    def resolve(self, spec: ImageSpec) -> Ranks:
        """The ranks for an image shape.

        Raises:
            OptionError: a rank is above the size of its mode, or `ranks` has the wrong length.
        """
        if self.ranks is not None:
            if len(self.ranks) != spec.channels:
                raise OptionError(f"expected {spec.channels} ranks, one per channel, got {len(self.ranks)}", "ranks")
            top, side = max(self.ranks), max(spec.height, spec.width)
            if top > side:
                raise OptionError(f"a rank of {top} exceeds the image side {side}", "ranks")
            height, width = min(top, spec.height), min(top, spec.width)
            return Ranks(channels=spec.channels, height=height, width=width, per_channel=self.ranks)
        modes = (
            ("rank_channels", self.rank_channels or spec.channels, spec.channels, "channels"),
            ("rank" if self.rank_h is None else "rank_h", self.rank_h or self.rank, spec.height, "rows"),
            ("rank" if self.rank_w is None else "rank_w", self.rank_w or self.rank, spec.width, "columns"),
        )
        for key, rank, size, what in modes:
            if rank > size:
                raise OptionError(f"a rank of {rank} exceeds the {size} {what} of an image; at most {size}", key)
        (_, r_c, _, _), (_, r_h, _, _), (_, r_w, _, _) = modes
        return Ranks(channels=r_c, height=r_h, width=r_w, per_channel=None)

    def layout(self, spec: ImageSpec, budget: Budget, label_floats_per_image: int) -> Layout:
        """The layout with the most cores for which mappers, cores and (in strict accounting) labels fit the budget."""
        ranks = self.resolve(spec)
        if self.subspaces > 1 and self.pairing == "all" and not self._low_modes(spec, ranks):
            raise OptionError("at full rank all subspaces are one, and pairing all would repeat each image", "pairing")
        if self.assign == "class" and self.pairing == "own" and self.subspaces > spec.num_classes:
            raise OptionError(f"{spec.num_classes} classes cannot fill {self.subspaces} subspaces", "subspaces")
        if not self._fits(spec, budget, label_floats_per_image):
            raise OptionError(self._what_would_fit(spec, budget, label_floats_per_image))
        mappers, _ = self._prices(spec, budget, label_floats_per_image)
        layout = Layout.largest(
            spec,
            budget,
            ranks.core_floats,
            label_floats_per_image,
            shared_floats=mappers,
            images_per_sample=self._images_per_core,
        )
        cores = spec.num_classes * layout.samples_per_class
        if self.pairing == "own" and cores < self.subspaces:
            raise OptionError(f"{cores} samples cannot fill {self.subspaces} subspaces; at most {cores}", "subspaces")
        return layout

    def init(self, layout: Layout, real: RealImages, rng: torch.Generator) -> Params:
        """Fits S subspaces to the real training images and projects random real images onto them.

        Returns:
            `cores` [n, F]; `map_c` [S, C, r_c], `map_h` [S, H, r_h], `map_w` [S, W, r_w]: bases of the subspaces, none
            for an axis of full rank; integers `counts` [m, S]: samples of a class in a subspace, and `core_shape` [3].
        """
        spec, ranks = layout.spec, self.resolve(layout.spec)
        picked = real.pick(layout.samples_per_class, rng)
        images, labels = real.images[picked], real.labels[picked].cpu()
        fit_rows = torch.randperm(len(real.images), generator=rng)[:FIT_IMAGES]
        fit, fit_labels = real.images[fit_rows], real.labels[fit_rows].cpu()
        modes = self._low_modes(spec, ranks)
        shared = self.pairing == "all"
        assignment, groups = torch.zeros(len(images), dtype=torch.int64), [fit] * self.subspaces
        if modes and self.subspaces > 1:
            found, groups = self._subspaces(images, labels, fit, fit_labels, rng)
            assignment = assignment if shared else found
        # The sort is stable, so that samples of one class and subspace keep the order in which they were picked.
        order = torch.argsort(labels * self.subspaces + assignment, stable=True)
        images, assignment, labels = images[order], assignment[order], labels[order]

        mappers = {mode: torch.stack([leading(group, mode, rank) for group in groups]) for mode, rank in modes.items()}
        if shared:
            common = {mode: leading(fit, mode, rank) for mode, rank in modes.items()}
            cores = project(images, {mode: m.expand(len(images), -1, -1) for mode, m in common.items()})
            mappers = {mode: self._near(common[mode], m, rng) for mode, m in mappers.items()}
        else:
            cores = project(images, {mode: m[assignment.to(m.device)] for mode, m in mappers.items()})
        if ranks.per_channel is not None and self.rotation == "fixed":
            # The fixed rotation is not stored, so _low_modes does not contain it.
            cores = torch.einsum("nchw,cj->njhw", cores, cosine_basis(spec.channels).to(cores))

        counts = torch.zeros(spec.num_classes, self.subspaces, dtype=torch.int64)
        counts.index_put_((labels, assignment), torch.ones_like(labels), accumulate=True)
        return {
            "cores": flatten_cores(cores, ranks.per_channel),
            **{f"map_{mode}": m for mode, m in mappers.items()},
            "counts": counts.to(images.device),
            "core_shape": torch.tensor((ranks.channels, ranks.height, ranks.width)),
        }

    def decode(self, params: Params, index: Tensor) -> Tensor:
        """Decodes cores to images [B, C, H, W]; if `pairing` is "all", image i is core i // S in subspace i % S."""
        counts = params["counts"]
        if self.pairing == "all":
            core, subspace = index // self.subspaces, index % self.subspaces
        else:
            core, subspace = index, self._owner(counts)[index]
        shape = params["core_shape"].tolist()
        # On a CPU the gradient of indexing with [...] sums in the random order of threads, that of index_select does
        # not. On a GPU it does, unless executor.deterministic is set.
        images = unflatten_cores(params["cores"].index_select(0, core), shape, self.ranks)
        if "map_h" in params:
            images = params["map_h"].index_select(0, subspace).unsqueeze(1) @ images
        if "map_w" in params:
            images = images @ params["map_w"].index_select(0, subspace).unsqueeze(1).transpose(2, 3)
        if "map_c" in params:
            images = torch.einsum("ncr,nrhw->nchw", params["map_c"].index_select(0, subspace), images)
        elif self.ranks is not None and self.rotation == "fixed":
            images = torch.einsum("njhw,cj->nchw", images, cosine_basis(shape[0]).to(images))
        return images

    def direction(self, params: Params, gradients: Params) -> Params:
        """Changes of cores and mappers that move the decoded images as a step of `pixel` would, as far as they can.

        With pairing own there is a closed form, in which mappers only move out of their span and cores do the rest.
        With pairing all the least-squares problem is solved by conjugate gradients.
        """
        modes = [mode for mode in ("c", "h", "w") if f"map_{mode}" in params]
        if not modes:
            return gradients
        shape, own = params["core_shape"].tolist(), self.pairing == "own"
        maps = {mode: params[f"map_{mode}"].double() for mode in modes}
        cores = unflatten_cores(params["cores"].double(), shape, self.ranks)
        kept = [(min(r, shape[1]), min(r, shape[2])) for r in self.ranks or ()] or None
        blocks = TuckerBlocks(cores, maps, self._owner(params["counts"]) if own else None, kept)

        def solve(right: Mapping[str, Tensor]) -> dict[str, Tensor]:
            full = blocks.solve_cores(unflatten_cores(right["cores"], shape, self.ranks))
            mappers = {f"map_{mode}": blocks.solve_map(mode, right[f"map_{mode}"]) for mode in modes}
            return {"cores": flatten_cores(full, self.ranks), **mappers}

        wide = {key: gradient.double() for key, gradient in gradients.items()}
        if own and self.ranks is None:
            outside = {f"map_{mode}": blocks.outside(mode, wide[f"map_{mode}"]) for mode in modes}
            found = solve({**wide, **outside})
        else:
            tables = {key: value for key, value in params.items() if not value.is_floating_point()}
            images = int(params["counts"].sum()) * self._images_per_core
            index = torch.arange(images, device=params["counts"].device)
            at = {key: params[key].double() for key in wide}
            jtj = normal_matrix(lambda floats: self.decode({**floats, **tables}, index), at)
            found = conjugate_gradients(jtj, wide, solve, gradients["cores"].dtype)
        return {key: value.to(gradients[key].dtype) for key, value in found.items()}

    def param_groups(self, params: Params) -> tuple[ParamGroup, ...]:
        """Two groups: cores and mappers, each with its own learning rate."""
        mappers = tuple(key for key in ("map_c", "map_h", "map_w") if key in params)
        images = len(params["cores"]) * self._images_per_core
        groups = [ParamGroup(keys=("cores",), lr=self.lr * images, momentum=self.momentum)]
        if mappers:
            lr = self.lr if self.lr_mappers is None else self.lr_mappers
            groups.append(ParamGroup(keys=mappers, lr=lr * images, momentum=self.momentum))
        return tuple(groups)

    def _owner(self, counts: Tensor) -> Tensor:
        """The subspace [n] of each core, computed from the table of counts [m, S]."""
        numbers = torch.arange(self.subspaces, device=counts.device).repeat(len(counts))
        return numbers.repeat_interleave(counts.flatten())

    def _low_modes(self, spec: ImageSpec, ranks: Ranks) -> dict[str, int]:
        """The modes that have a stored mapper, with their ranks, in the order c, h, w."""
        modes = {}
        if ranks.channels < spec.channels or (ranks.per_channel is not None and self.rotation == "learned"):
            modes["c"] = ranks.channels
        if ranks.height < spec.height:
            modes["h"] = ranks.height
        if ranks.width < spec.width:
            modes["w"] = ranks.width
        return modes

    def _prices(self, spec: ImageSpec, budget: Budget, label_floats: int) -> tuple[int, int]:
        """Number of floats of all mappers, and of one core with its labels as far as they count."""
        sizes, ranks = {"c": spec.channels, "h": spec.height, "w": spec.width}, self.resolve(spec)
        mappers = self.subspaces * sum(sizes[mode] * rank for mode, rank in self._low_modes(spec, ranks).items())
        return mappers, ranks.core_floats + self._images_per_core * budget.label_price(label_floats)

    @property
    def _images_per_core(self) -> int:
        return self.subspaces if self.pairing == "all" else 1

    def _what_would_fit(self, spec: ImageSpec, budget: Budget, label_floats: int) -> str:
        mappers, price = self._prices(spec, budget, label_floats)
        need, classes = mappers + spec.num_classes * price, spec.num_classes
        ways = [f"budget.ipc >= {-(-need // (classes * spec.floats_per_image))}"]

        def too_many(subspaces: int) -> bool:
            return not evolve(self, subspaces=subspaces)._fits(spec, budget, label_floats)

        # More subspaces take more floats, so that the first number that does not fit is found by halving.
        if fewer := bisect_left(range(1, self.subspaces), True, key=too_many):
            ways.append(f"param.subspaces <= {fewer}")
        if self.ranks is None and self.rank_h is None and self.rank_w is None:
            smaller = [r for r in range(1, self.rank) if evolve(self, rank=r)._fits(spec, budget, label_floats)]
            if smaller:
                ways.append(f"param.rank <= {max(smaller)}")
        if budget.accounting == "strict" and label_floats and self._fits(spec, budget, 0):
            ways.append("budget.accounting = 'pixels' (labels free)")
        return (
            f"one sample per class needs {need} floats ({mappers} for mappers, {classes} × {price} for cores and "
            f"labels), but ipc {budget.ipc} is {budget.floats(spec)}. What would fit: {', or '.join(ways)}"
        )

    def _fits(self, spec: ImageSpec, budget: Budget, label_floats: int) -> bool:
        mappers, price = self._prices(spec, budget, label_floats)
        return mappers + spec.num_classes * price <= budget.floats(spec)

    def _subspaces(
        self, images: Tensor, labels: Tensor, fit: Tensor, fit_labels: Tensor, rng: torch.Generator
    ) -> tuple[Tensor, list[Tensor]]:
        """The subspace [n] of each picked image, and for each subspace the real images that it is fitted to."""
        if self.assign == "kmeans":
            return self._kmeans(images, fit, rng)
        if self.assign == "class":
            assignment, fit_assignment = labels % self.subspaces, fit_labels % self.subspaces
        else:
            assignment, fit_assignment = (torch.arange(len(some)) % self.subspaces for some in (images, fit))
        return assignment, [fit[(fit_assignment == k).to(fit.device)] for k in range(self.subspaces)]

    def _kmeans(self, images: Tensor, fit: Tensor, rng: torch.Generator) -> tuple[Tensor, list[Tensor]]:
        from sklearn.cluster import KMeans
        from sklearn.decomposition import PCA

        flat = fit.flatten(1).double().cpu().numpy()
        components = min(PCA_COMPONENTS, *flat.shape)
        state = int(torch.randint(2**31 - 1, (), generator=rng))
        pca = PCA(n_components=components, svd_solver="covariance_eigh").fit(flat)
        kmeans = KMeans(n_clusters=self.subspaces, n_init=4, random_state=state).fit(pca.transform(flat))
        found = torch.from_numpy(kmeans.labels_).long().to(fit.device)
        groups = [fit[found == k] for k in range(self.subspaces)]
        assignment = kmeans.predict(pca.transform(images.flatten(1).double().cpu().numpy()))
        return torch.from_numpy(assignment).long(), groups

    def _near(self, common: Tensor, mappers: Tensor, rng: torch.Generator) -> Tensor:
        """Rotates mappers [S, size, r] towards the common one, since signs of an SVD are arbitrary, and adds noise."""
        aligned = []
        for mapper in mappers:
            left, _, right = torch.linalg.svd(mapper.T @ common)
            noise = torch.randn(mapper.shape, generator=rng, dtype=torch.float64).to(mapper)
            aligned.append(mapper @ (left @ right) + self.perturb * noise / mapper.shape[0] ** 0.5)
        return torch.stack(aligned)
