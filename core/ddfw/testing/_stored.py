"""Checks that parameterisations and label strategies share: both store named tensors and read rows out of them."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from attrs import evolve, frozen
from safetensors.torch import load, save
from torch import Tensor

from ddfw.contracts.parameterization import Layout, ParamGroup
from ddfw.testing._common import Checked, clones, generator, same
from ddfw.testing._devices import elsewhere, require_there
from ddfw.testing._tensors import (
    Tensors,
    check_gradients,
    close,
    floating,
    gradients_of,
    normal,
    require_tensor,
)

_DTYPE_HINT = "is a dtype hard-coded? runs can be float32 or float64"


@frozen(kw_only=True)
class StoredCase(ABC):
    """The checks of one component on one layout.

    Args:
        subject: the component, for error texts.
        component: the component.
        layout: the layout; its images stand in class order.
        row: the shape of what belongs to one image.
        seed: seed of the inputs and of the generators.
    """

    #: The method that reads rows, what it gives, and what `init` is given.
    method: ClassVar[str]
    gives: ClassVar[str]
    given: ClassVar[str]

    subject: Checked
    component: Any
    layout: Layout
    row: tuple[int, ...]
    seed: int

    @abstractmethod
    def inputs(self, dtype: torch.dtype, shift: int = 0) -> Any:
        """What `init` is given; another `shift` makes others."""

    @abstractmethod
    def start(self, inputs: Any) -> Tensors:
        """What the component's `init` gives."""

    @abstractmethod
    def read(self, params: Tensors, index: Tensor) -> Tensor:
        """The rows that the component reads out of the tensors, with their derivatives."""

    def init(self, inputs: Any) -> dict[str, Tensor]:
        """The tensors that `init` gives, in a dictionary of their own."""
        found = self.start(inputs)
        wrong = "init has to return a mapping from names to tensors"
        self.subject.require(isinstance(found, Mapping) and all(isinstance(key, str) and key for key in found), wrong)
        return dict(found)

    def rows(self, params: Tensors, index: Tensor) -> Tensor:
        """The rows alone, read out of copies."""
        with torch.no_grad():
            return self.read(clones(params), index)

    @property
    def everything(self) -> Tensor:
        """The numbers of all rows."""
        return torch.arange(self.layout.num_images)

    def check_init(self, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
        """Checks that `init` gives new, storable tensors and does not change its inputs."""
        inputs = self.inputs(dtype)
        with self.subject.unchanged(f"init changes the {self.given}; work on a copy", lambda: inputs):
            params = self.subject.call("init", self.init, inputs, hint=_DTYPE_HINT)
        check_stored(self.subject, params, dtype, inputs if isinstance(inputs, Tensor) else inputs.images)
        return params

    def check_floats(self, params: Tensors, announcer: str, announced: int, tables: int, rule: str) -> None:
        """Checks that as many floats are stored as announced, and beside them only small tables of integers.

        Args:
            params: what `init` has given.
            announcer: name of the method that announces a number of floats.
            announced: that number.
            tables: number of free integers beside those that are free for every component.
            rule: what `tables` counts, in words.
        """
        held = floats_in(params)
        self.subject.require(
            held == announced,
            f"{'understates' if held > announced else 'overstates'} its floats: {announcer} announces {announced}, but "
            f"init stores {held} in floating tensors for {self.layout.num_images} images; every float is paid for",
        )
        integers, most = sum(t.numel() for t in params.values()) - held, 64 + 2 * self.layout.num_images + tables
        self.subject.require(
            integers <= most,
            f"understates its floats: it stores {integers} integers beside {held} floats; tables are free up to 64, "
            f"plus two per image{rule} ({most} here); images in integers are not a table",
        )

    def check_rows(self, params: dict[str, Tensor], dtype: torch.dtype | None) -> Tensor:
        """Checks that rows have the right shape and dtype and that the parameters stay, and returns all rows."""
        rows = self.subject.call(self.method, self.rows, params, self.everything, hint=_DTYPE_HINT)
        wrong = f"{self.method} changes its parameters; work on a copy"
        with self.subject.unchanged(wrong, lambda: params), torch.no_grad():
            self.read(params, self.everything)
        shape = (self.layout.num_images, *self.row)
        return require_tensor(self.subject, self.method, rows, shape, dtype, given="parameters")

    def check_state(self, params: dict[str, Tensor], rows: Tensor) -> None:
        """Checks that rows depend only on the tensors that are passed in."""
        subject, method = self.subject, self.method
        moved = perturbed(subject.once("init", self.init, self.inputs(torch.float32, 1)), self.seed + 1)
        subject.require(
            not same(subject.once(method, self.rows, moved, self.everything), rows)
            or not self.component.param_groups(params),
            f"{method} gives the same {self.gives} for other parameters: it keeps state between calls (a cache of an "
            "earlier call?), or does not use them",
        )
        subject.again(method, rows, self.rows, params, self.everything)
        subject.again("init", params, self.init, self.inputs(torch.float32))
        fresh = evolve(self, component=evolve(self.component))
        subject.require(
            same(fresh.rows(params, self.everything), rows),
            f"{method} depends on the instance that made the tensors: an equal component gives other {self.gives}; "
            f"whatever {method} needs has to be among the tensors, or saved sets cannot be read",
        )

    def check_index(self, params: dict[str, Tensor], rows: Tensor) -> None:
        """Checks that the method returns the rows whose numbers it is given."""
        n, what = len(rows), self.method
        order = torch.randperm(n, generator=generator(3))
        last_first_last, backwards = torch.tensor([n - 1, 0, n - 1]), torch.arange(n).flip(0)
        for index in (order, order[: max(1, n // 2)], order[:1], last_first_last, backwards):
            found = self.subject.once(what, self.rows, params, index)
            shown = index.tolist() if len(index) <= 6 else f"of {len(index)} rows in another order"
            first, wanted = rows[: len(index)], rows[index]
            self.subject.require(
                found.shape == wanted.shape and (n == 1 or not close(found, first) or close(wanted, first)),
                f"{what} ignores the index: for the index {shown} it gives {tuple(found.shape)}, the rows that come "
                "first; an outer step asks for some rows only, in any order",
            )
            self.subject.require(
                close(found, wanted),
                f"{what} scrambles rows: row j of {what}(index) has to be row index[j] of all, and is not for the "
                f"index {shown}; the gradients of a step would go to other images",
            )

    def check_order(self, noun: str, found: Tensor, clear: Tensor, count: int) -> None:
        """Checks that most rows which clearly show a class show that of their image.

        Args:
            noun: what a row shows, in a word.
            found: [n] the class that each row shows.
            clear: [n] whether it shows it clearly.
            count: twice the number of rows that may show another class.
        """
        classes = self.layout.labels()
        wrong = clear & (found != classes)
        first = int(wrong.int().argmax())
        self.subject.require(
            int(wrong.sum()) * 2 <= count,
            f"{self.method} scrambles rows: image {first} has the {noun} {int(found[first])}, but images stand in "
            f"class order, image i in class i // images_per_class, here {int(classes[first])}; labels would go to "
            "other images",
        )

    def check_groups(self, params: dict[str, Tensor]) -> tuple[str, ...]:
        """Checks the parameter groups and returns the names of the tensors in them."""
        groups = self.subject.call("param_groups", lambda: self.component.param_groups(clones(params)))
        return learned_keys(self.subject, groups, params)

    def check_learning(self, params: dict[str, Tensor], learned: Sequence[str]) -> dict[str, Tensor]:
        """Checks the gradients of rows, and returns the parameters at which it does."""
        moved = perturbed(params, self.seed + 2)
        check_gradients(self.subject, self.method, lambda p: self.read(p, self.everything), moved, learned)
        return moved

    def check_devices(self) -> None:
        """Checks that results and gradients are on the device of the call's arguments."""
        elsewhere(self.subject, self.method, self.check_read_device)
        elsewhere(self.subject, "init", self.check_init_device)

    def check_read_device(self, device: torch.device) -> dict[str, Tensor]:
        """Checks the device of rows and their gradients, and returns the parameters on that device."""
        params = {key: t.to(device) for key, t in self.init(self.inputs(torch.float32)).items()}
        leaves = {key: t.detach().requires_grad_(t.is_floating_point()) for key, t in params.items()}
        rows = self.read(leaves, self.everything.to(device))
        require_there(self.subject, self.method, rows, device)
        gradients_of(rows, floating(leaves), torch.ones_like(rows))
        return leaves

    def check_init_device(self, device: torch.device) -> None:
        """Checks that initial tensors are on the device of the inputs."""
        inputs = self.inputs(torch.float32)
        if isinstance(inputs, Tensor):
            there = inputs.to(device)
        else:
            there = evolve(inputs, images=inputs.images.to(device), labels=inputs.labels.to(device))
        for tensor in floating(self.init(there)).values():
            require_there(self.subject, "init", tensor, device)


def check_stored(subject: Checked, tensors: Tensors, dtype: torch.dtype, inputs: Tensor) -> None:
    """Checks that tensors are finite, of the right dtype, storable in a file, and share no memory."""
    for key, tensor in tensors.items():
        subject.require(isinstance(tensor, Tensor), f"init's {key!r} is a {type(tensor).__name__}, not a tensor")
        subject.require(
            not tensor.is_complex(),
            f"init's {key!r} is complex and understates its floats: only floating tensors are counted; store real and "
            "imaginary part (torch.view_as_real)",
        )
        wanted = dtype if tensor.is_floating_point() else None
        require_tensor(subject, "init", tensor, tuple(tensor.shape), wanted, part=repr(key), given="images")
    addresses, given = _addresses(tensors.values()), _addresses([inputs])
    wrong = "two of init's tensors share memory; they are updated and saved one by one, so clone them"
    subject.require(len(set(addresses)) == len(addresses), wrong)
    wrong = "init's tensors share memory with the images that it was given; clone them, since they are updated in place"
    subject.require(not set(addresses) & set(given), wrong)
    saved = load(save({key: t.contiguous() for key, t in tensors.items()}))
    alike = set(saved) == set(tensors) and all(same(saved[key], t) for key, t in tensors.items())
    subject.require(alike, "init's tensors change when they are saved and loaded")


def _addresses(tensors: Iterable[Tensor]) -> list[int]:
    """The memory addresses of the tensors' storages, leaving out tensors without elements."""
    return [t.untyped_storage().data_ptr() for t in tensors if t.numel()]


def floats_in(tensors: Tensors) -> int:
    """Number of elements of all floating-point tensors."""
    return sum(t.numel() for t in floating(tensors).values())


def learned_keys(subject: Checked, groups: Sequence[ParamGroup], tensors: Tensors) -> tuple[str, ...]:
    """Checks the parameter groups and returns the names of the tensors in them."""
    keys: list[str] = []
    for group in groups:
        subject.require(isinstance(group, ParamGroup), "param_groups has to return a tuple of ParamGroup")
        subject.require(group.keys, "param_groups has a group without tensors; leave it out")
        for key in group.keys:
            named = f"param_groups names {key!r}"
            subject.require(key in tensors, f"{named}, but there are only {', '.join(map(repr, tensors))}")
            subject.require(tensors[key].is_floating_point(), f"{named}, which is not floating; tables are fixed")
            subject.require(key not in keys, f"{named} twice; a tensor has one optimiser")
            keys.append(key)
        lr, optimiser, momentum = group.lr, group.optimiser, group.momentum
        subject.require(math.isfinite(lr) and lr >= 0, f"param_groups has the learning rate {lr}; it is >= 0")
        allowed = 0 <= momentum < 1 or (momentum == 1 and optimiser == "sgd")
        subject.require(allowed, f"param_groups has the momentum {momentum} for {optimiser}")
        known = optimiser in ("sgd", "adam")
        subject.require(known, f"param_groups asks for {optimiser!r}; known are sgd and adam")
    return tuple(keys)


def perturbed(tensors: Tensors, seed: int, size: float = 0.1) -> dict[str, Tensor]:
    """The tensors with random noise of `size` times their scale added, so that no value is 0 by design."""
    rng = generator(seed)

    def moved(tensor: Tensor) -> Tensor:
        return tensor + size * (tensor.abs().mean() + 0.1) * normal(tensor.shape, rng).to(tensor)

    return {key: moved(t) if t.is_floating_point() else t.clone() for key, t in tensors.items()}
