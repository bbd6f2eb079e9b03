"""Reads the object files of CIFAR, which Python 2 wrote (protocol 2), without executing anything in them.

Such a file is a program for a small stack machine. The machine here knows only the instructions that build numbers,
texts, lists, tuples, dictionaries and arrays of bytes. A name in a file is kept as text and never looked up; "calling"
a name is accepted only in the form in which numpy writes an array of bytes. Memory and time are linear in the size of
the file.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from typing import Any

import numpy as np
from attrs import define, frozen


@frozen
class _Name:
    """A name in a file, kept as text; it is never imported or looked up."""

    text: str


@define
class _Array:
    """An array of bytes, whose content a later instruction fills in."""

    content: np.ndarray | None = None


@frozen
class _Bytes:
    """Stands for numpy's dtype of unsigned bytes."""


_RECONSTRUCT = (_Name("numpy.core.multiarray _reconstruct"), _Name("numpy._core.multiarray _reconstruct"))
_NDARRAY = _Name("numpy ndarray")
_DTYPE = _Name("numpy dtype")
_STOP = ord(".")


def read(data: bytes) -> dict[bytes, Any]:
    """Reads a file's dictionary of numbers, texts (as bytes), lists, tuples, dictionaries and arrays of bytes.

    Args:
        data: the content of the file.

    Raises:
        ValueError: the file is damaged, is not a dictionary, or holds other objects.
    """
    try:
        found = _Machine(data).run()
    except (IndexError, struct.error) as error:
        raise ValueError("it ends too early or is damaged") from error
    if type(found) is not dict:
        raise ValueError("it does not hold a dictionary")
    return found


class _Machine:
    """The stack machine that runs a file's instructions.

    Args:
        data: the content of the file.
    """

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0
        self._stack: list[Any] = []
        self._marks: list[int] = []
        self._memo: dict[int, Any] = {}

    def run(self) -> Any:
        """Runs all instructions and returns the value on top of the stack."""
        while True:
            code = self._take(1)[0]
            if code == _STOP:
                return _plain(self._pop())
            instruction = _INSTRUCTIONS.get(code)
            if instruction is None:
                raise ValueError(f"instruction {code:#04x} at byte {self._at - 1} has no place in such a file")
            instruction(self)

    def _take(self, count: int) -> bytes:
        end = self._at + count
        if count < 0 or end > len(self._data):
            raise IndexError
        piece = self._data[self._at : end]
        self._at = end
        return piece

    def _number(self, form: str) -> int:
        (value,) = struct.unpack("<" + form, self._take(struct.calcsize(form)))
        return int(value)

    def _line(self) -> str:
        end = self._data.find(b"\n", self._at, self._at + 200)
        if end < 0:
            raise IndexError
        line = self._take(end + 1 - self._at)[:-1]
        return line.decode("ascii", "replace")

    def _pop(self) -> Any:
        if self._marks and self._marks[-1] >= len(self._stack):
            raise IndexError
        return self._stack.pop()

    def _pop_to_mark(self) -> list[Any]:
        start = self._marks.pop()
        values = self._stack[start:]
        del self._stack[start:]
        return values

    def _top(self, kind: type) -> Any:
        value = self._stack[-1]
        if type(value) is not kind:
            raise ValueError("it is damaged: an instruction meets a value of another kind")
        return value

    def proto(self) -> None:
        if self._number("B") > 2:
            raise ValueError("it was not written by Python 2")

    def mark(self) -> None:
        self._marks.append(len(self._stack))

    def push(self, value: Any) -> None:
        self._stack.append(value)

    def number(self, form: str) -> None:
        self.push(self._number(form))

    def text(self, form: str) -> None:
        self.push(self._take(self._number(form)))

    def long(self) -> None:
        count = self._number("B")
        if count > 8:
            raise ValueError("it holds a number of more than 64 bits")
        self.push(int.from_bytes(self._take(count), "little", signed=True))

    def tuple_of(self, count: int) -> None:
        values = [self._pop() for _ in range(count)]
        self.push(tuple(_plain(v) for v in reversed(values)))

    def tuple_to_mark(self) -> None:
        self.push(tuple(_plain(v) for v in self._pop_to_mark()))

    def append(self) -> None:
        value = self._pop()
        self._top(list).append(_plain(value))

    def appends(self) -> None:
        values = self._pop_to_mark()
        self._top(list).extend(_plain(v) for v in values)

    def set_item(self) -> None:
        value, key = self._pop(), self._pop()
        self._set([key, value])

    def set_items(self) -> None:
        self._set(self._pop_to_mark())

    def _set(self, pairs: list[Any]) -> None:
        target = self._top(dict)
        for key, value in zip(pairs[::2], pairs[1::2], strict=True):
            if type(key) is not bytes:
                raise ValueError("it has a key that is not a text")
            target[key] = _plain(value)

    def put(self, form: str) -> None:
        self._memo[self._number(form)] = self._stack[-1]

    def get(self, form: str) -> None:
        number = self._number(form)
        if number not in self._memo:
            raise IndexError
        self.push(self._memo[number])

    def name(self) -> None:
        name = _Name(f"{self._line()} {self._line()}")
        if name not in (*_RECONSTRUCT, _NDARRAY, _DTYPE):
            raise ValueError(f"it names {name.text[:80]!a}, which has no place in such a file; nothing was executed")
        self.push(name)

    def call(self) -> None:
        arguments, name = self._pop(), self._pop()
        first = arguments[0] if type(arguments) is tuple and arguments else None
        if name == _DTYPE and type(first) is bytes and first in (b"u1", b"|u1"):
            self.push(_Bytes())
        elif name in _RECONSTRUCT and type(first) is _Name and first == _NDARRAY:
            self.push(_Array())
        else:
            raise ValueError("it asks for a call that has no place in such a file; nothing was executed")

    def build(self) -> None:
        state = self._pop()
        if type(self._stack[-1]) is _Bytes:
            return  # the state of a dtype is byte order and alignment, which unsigned bytes do not need
        array = self._top(_Array)
        if type(state) is not tuple or len(state) != 5 or type(state[2]) is not _Bytes:
            raise ValueError("it holds an array of something else than bytes")
        _, shape, _, fortran, raw = state
        if type(shape) is not tuple or not 1 <= len(shape) <= 4 or any(type(n) is not int or n < 0 for n in shape):
            raise ValueError("it holds an array without a shape")
        if type(fortran) not in (bool, int) or type(raw) is not bytes or math.prod(shape) != len(raw):
            raise ValueError("it holds an array whose shape does not fit its content")
        array.content = np.frombuffer(raw, np.uint8).reshape(shape, order="F" if fortran else "C")


def _plain(value: Any) -> Any:
    """The value to put into a container: the array itself in place of its `_Array`."""
    return value.content if type(value) is _Array else value


_INSTRUCTIONS: dict[int, Callable[[_Machine], None]] = {
    0x80: _Machine.proto,
    ord("("): _Machine.mark,
    ord("N"): lambda m: m.push(None),
    0x88: lambda m: m.push(True),
    0x89: lambda m: m.push(False),
    ord("J"): lambda m: m.number("i"),
    ord("K"): lambda m: m.number("B"),
    ord("M"): lambda m: m.number("H"),
    0x8A: _Machine.long,
    ord("T"): lambda m: m.text("i"),
    ord("U"): lambda m: m.text("B"),
    ord("X"): lambda m: m.text("I"),
    ord("]"): lambda m: m.push([]),
    ord("}"): lambda m: m.push({}),
    ord(")"): lambda m: m.push(()),
    0x85: lambda m: m.tuple_of(1),
    0x86: lambda m: m.tuple_of(2),
    0x87: lambda m: m.tuple_of(3),
    ord("t"): _Machine.tuple_to_mark,
    ord("a"): _Machine.append,
    ord("e"): _Machine.appends,
    ord("s"): _Machine.set_item,
    ord("u"): _Machine.set_items,
    ord("q"): lambda m: m.put("B"),
    ord("r"): lambda m: m.put("I"),
    ord("h"): lambda m: m.get("B"),
    ord("j"): lambda m: m.get("I"),
    ord("c"): _Machine.name,
    ord("R"): _Machine.call,
    ord("b"): _Machine.build,
}
