"""Reads the object files of CIFAR, which Python 2 wrote (protocol 2), without executing anything in them.

Such a file is a program for a small stack machine. Python's `pickletools` takes it apart into instructions, and the
machine here knows only those that build numbers, texts, lists, tuples, dictionaries and arrays of bytes. A name in a
file is kept as text and never looked up; "calling" a name is accepted only in the form in which numpy writes an array
of bytes. Memory and time are linear in the size of the file.

On the machine's stack, texts of the file are bytes, so that a str is always a name.
"""

from __future__ import annotations

import math
import pickletools
import warnings
from typing import Any

import numpy as np
from attrs import define, field

_RECONSTRUCT = ("numpy.core.multiarray _reconstruct", "numpy._core.multiarray _reconstruct")
_NDARRAY = "numpy ndarray"
_DTYPE = "numpy dtype"
#: Stands for numpy's dtype of unsigned bytes.
_UNSIGNED_BYTES = object()


@define
class _Array:
    """An array of bytes, whose content a later instruction fills in."""

    content: np.ndarray | None = None


def read(data: bytes) -> dict[bytes, Any]:
    """Reads a file's dictionary of numbers, texts (as bytes), lists, tuples, dictionaries and arrays of bytes.

    Args:
        data: the content of the file.

    Raises:
        ValueError: the file is damaged, is not a dictionary, or holds other objects.
    """
    machine = _Machine()
    try:
        with warnings.catch_warnings():
            # Of a backslash in a damaged text, which stands before an instruction that has no place in such a file.
            warnings.simplefilter("ignore", DeprecationWarning)
            for instruction, argument, position in pickletools.genops(data):
                if not (machine.push_value(instruction.name, argument) or machine.work(instruction.name, argument)):
                    raise ValueError(f"instruction {instruction.name} at byte {position} has no place in such a file")
        found = machine.pop()
    except IndexError as error:
        raise ValueError("it ends too early or is damaged") from error
    if type(found) is not dict:
        raise ValueError("it does not hold a dictionary")
    return found


@define
class _Machine:
    """The stack machine that runs a file's instructions.

    Args:
        stack: the values that later instructions work on.
        marks: heights of the stack, from which an instruction takes all values.
        memo: values that are used again, by their numbers.
    """

    stack: list[Any] = field(factory=list)
    marks: list[int] = field(factory=list)
    memo: dict[int, Any] = field(factory=dict)

    def push_value(self, instruction: str, argument: Any) -> bool:
        """Runs an instruction that adds one value to the stack; False if it is not one of these."""
        match instruction:
            case "NONE" | "NEWTRUE" | "NEWFALSE":
                value: Any = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}[instruction]
            case "EMPTY_LIST" | "EMPTY_DICT" | "EMPTY_TUPLE":
                value = {"EMPTY_LIST": list, "EMPTY_DICT": dict, "EMPTY_TUPLE": tuple}[instruction]()
            case "BININT" | "BININT1" | "BININT2" | "LONG1":
                if not -(2**63) <= argument < 2**63:
                    raise ValueError("it holds a number of more than 64 bits")
                value = argument
            case "BINSTRING" | "SHORT_BINSTRING":
                value = argument.encode("latin-1")
            case "BINUNICODE":
                value = argument.encode(errors="surrogatepass")
            case "BINGET" | "LONG_BINGET":
                if argument not in self.memo:
                    raise IndexError
                value = self.memo[argument]
            case "GLOBAL":
                value = argument
                if value not in (*_RECONSTRUCT, _NDARRAY, _DTYPE):
                    raise ValueError(
                        f"it names {value[:80]!a}, which has no place in such a file; nothing was executed"
                    )
            case _:
                return False
        self.stack.append(value)
        return True

    def work(self, instruction: str, argument: Any) -> bool:
        """Runs an instruction that works on values of the stack; False if it has no place in such a file."""
        match instruction:
            case "PROTO":
                if argument > 2:
                    raise ValueError("it was not written by Python 2")
            case "STOP":
                pass
            case "MARK":
                self.marks.append(len(self.stack))
            case "BINPUT" | "LONG_BINPUT":
                self.memo[argument] = self.stack[-1]
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                values = [self.pop() for _ in range(int(instruction[-1]))]
                self.stack.append(tuple(reversed(values)))
            case "TUPLE":
                self.stack.append(tuple(self._pop_to_mark()))
            case "APPEND" | "APPENDS":
                values = [self.pop()] if instruction == "APPEND" else self._pop_to_mark()
                self._top(list).extend(values)
            case "SETITEM" | "SETITEMS":
                pairs = [self.pop(), self.pop()][::-1] if instruction == "SETITEM" else self._pop_to_mark()
                if any(type(key) is not bytes for key in pairs[::2]):
                    raise ValueError("it has a key that is not a text")
                self._top(dict).update(zip(pairs[::2], pairs[1::2], strict=True))
            case "REDUCE":
                self._call()
            case "BUILD":
                self._build()
            case _:
                return False
        return True

    def pop(self) -> Any:
        """Takes the value on top of the stack; of an array its content."""
        if self.marks and self.marks[-1] >= len(self.stack):
            raise IndexError
        return _plain(self.stack.pop())

    def _pop_to_mark(self) -> list[Any]:
        start = self.marks.pop()
        values = [_plain(value) for value in self.stack[start:]]
        del self.stack[start:]
        return values

    def _top(self, kind: type) -> Any:
        value = self.stack[-1]
        if type(value) is not kind:
            raise ValueError("it is damaged: an instruction meets a value of another kind")
        return value

    def _call(self) -> None:
        arguments, name = self.pop(), self.pop()
        first = arguments[0] if type(arguments) is tuple and arguments else None
        # The types are compared first: an array in place of a text would be compared element by element.
        kinds = type(name), type(first)
        if kinds == (str, bytes) and name == _DTYPE and first in (b"u1", b"|u1"):
            self.stack.append(_UNSIGNED_BYTES)
        elif kinds == (str, str) and name in _RECONSTRUCT and first == _NDARRAY:
            self.stack.append(_Array())
        else:
            raise ValueError("it asks for a call that has no place in such a file; nothing was executed")

    def _build(self) -> None:
        state = self.pop()
        if self.stack[-1] is _UNSIGNED_BYTES:
            return  # the state of a dtype is byte order and alignment, which unsigned bytes do not need
        array = self._top(_Array)
        if type(state) is not tuple or len(state) != 5 or state[2] is not _UNSIGNED_BYTES:
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
