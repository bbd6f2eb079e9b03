"""What was made of a tensor for other processes, kept as long as the tensor lives and is not changed."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Generic, TypeVar

from attrs import define, field
from torch import Tensor

T = TypeVar("T")


@define(eq=False)
class Shelf(Generic[T]):
    """Keeps what `store` makes of each tensor: it is made once, and again only after the tensor was changed in place.

    Args:
        store: puts a tensor where other processes find it, and returns what they find it by.
        drop: called with what is not needed any more, since its tensor was changed or is gone.
    """

    _store: Callable[[Tensor], T]
    _drop: Callable[[T], object] = field(default=lambda kept: None)
    _there: dict[int, tuple[weakref.ref[Tensor], int, T]] = field(init=False, factory=dict)

    def put(self, tensor: Tensor) -> T:
        """Stores a tensor unless it is there, and returns what it is found by."""
        kept = self._there.get(id(tensor))
        if kept is not None and kept[0]() is tensor and kept[1] == tensor._version:
            return kept[2]
        self.tidy()
        if (old := self._there.pop(id(tensor), None)) is not None:
            self._drop(old[2])
        found = self._store(tensor)
        self._there[id(tensor)] = (weakref.ref(tensor), tensor._version, found)
        return found

    def tidy(self) -> None:
        """Drops what belongs to tensors that are gone."""
        for key in [key for key, kept in self._there.items() if kept[0]() is None]:
            self._drop(self._there.pop(key)[2])

    def clear(self) -> None:
        """Drops everything."""
        while self._there:
            self._drop(self._there.popitem()[1][2])
