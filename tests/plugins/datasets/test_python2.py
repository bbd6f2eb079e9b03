"""The reader of Python 2's object files: it knows CIFAR's and can be made to do nothing else."""

from __future__ import annotations

import contextlib
import os
import pickle
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ddfw_plugins.datasets import _python2


def test_it_reads_what_python_reads(official_files):
    """Broken: labels or pixels would be others than Python's own reader gives."""
    array = official_files.pixels(5, 3072)
    value = {b"labels": [1, 300, 70_000], b"data": array, b"filenames": [b"a.png", b"b" * 300], b"n": 0}
    data = official_files.python2(value)
    found, expected = _python2.read(data), pickle.loads(data, encoding="bytes")  # noqa: S301 - our own bytes
    assert np.array_equal(found.pop(b"data"), expected.pop(b"data"))
    assert found == expected == {k: v for k, v in value.items() if k != b"data"}


@pytest.mark.parametrize("value", [{}, {"a": [1, -5, 2**40, None, True, (1,), (1, 2), (1, 2, 3, 4), ()]}])
def test_it_reads_plain_values_of_python_3_as_well(value):
    """Broken: instructions that are harmless would be misread. Texts come as bytes."""
    found = _python2.read(pickle.dumps(value, 2))
    assert found == {k.encode(): v for k, v in value.items()}


class Evil:
    def __init__(self, call, *arguments):
        self.reduced = call, arguments

    def __reduce__(self):
        return self.reduced


class Stateful:
    def __setstate__(self, state):
        raise AssertionError("executed")

    def __getstate__(self):
        return {"a": 1}


CALLS = {
    "system": b"cos\nsystem\nU\x04true\x85R.",
    "posix": b"cposix\nsystem\nU\x04true\x85R.",
    "eval": b"c__builtin__\neval\nU\x011\x85R.",
    "instance": b"(cos\nsystem\nU\x04trueo.",
    "inst": b"(U\x04trueios\nsystem\n.",
    "newobj": b"cnumpy\nndarray\nK\x01\x85\x81.",
    "nested": b"}U\x01a(cnumpy.core.multiarray\n_reconstruct\ncos\nsystem\nK\x00\x85U\x01b\x87Rtb.",
    "reconstruct of another class": b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\ndtype\nK\x00\x85U\x01b\x87R.",
    "array of objects": b"cnumpy\ndtype\nU\x02O8K\x00K\x01\x87R.",
    "dtype of a dtype": b"cnumpy\ndtype\ncnumpy\ndtype\n\x85R.",
    "call of a text": b"U\x06systemU\x04true\x85R.",
    "state of a dictionary": b"}U\x01aK\x01b.",
    "state of a name": b"cnumpy\nndarray\n}b.",
    "extension": b"\x82\x01.",
    "stored elsewhere": b"U\x01aQ.",
    "protocol 4": pickle.dumps({"a": 1}, 4),
    "text protocol": pickle.dumps({"a": [1.5]}, 0),
    "a name is the result": b"cnumpy\nndarray\n.",
}


@pytest.mark.parametrize("data", CALLS.values(), ids=CALLS.keys())
def test_whatever_asks_for_a_call_is_refused(data, monkeypatch):
    """Broken: a data file could run a program."""
    monkeypatch.setattr(os, "system", lambda *_: pytest.fail("executed"))
    with pytest.raises(ValueError):
        _python2.read(data)


@pytest.mark.parametrize("protocol", [0, 1, 2])
@pytest.mark.parametrize(
    "value",
    [Evil(os.system, "true"), Evil(eval, "1"), Evil(getattr, "text", "upper"), Stateful(), np.float64(3), {1, 2}],
    ids=["system", "eval", "getattr", "setstate", "numpy scalar", "set"],
)
def test_objects_written_by_python_are_refused(value, protocol, monkeypatch):
    """Broken: a data file could run a program, hidden among plain values."""
    monkeypatch.setattr(os, "system", lambda *_: pytest.fail("executed"))
    with pytest.raises(ValueError):
        _python2.read(pickle.dumps({"labels": [1, 2], "data": value}, protocol))


def array(shape=(1, 4), raw=b"abcd", kind=b"u1"):
    axes = b"".join(b"J" + struct.pack("<i", n) for n in shape)
    return (
        b"}U\x04datacnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R(K\x01("
        + axes
        + b"tcnumpy\ndtype\nU%c%bK\x00K\x01\x87R\x89U%c%btbs." % (len(kind), kind, len(raw), raw)
    )


def test_an_array_s_shape_fits_its_bytes():
    """Broken: a few bytes could ask for all memory, or an array would read beyond its end."""
    assert _python2.read(array())[b"data"].tolist() == [list(b"abcd")]
    for shape in ((2**30, 2**30), (-1, -4), (1, 5), (), (1,) * 5):
        with pytest.raises(ValueError, match="shape"):
            _python2.read(array(shape))
    with pytest.raises(ValueError):
        _python2.read(array(kind=b"O8"))


BOMBS = {
    "a text of two gigabytes": b"}T\xff\xff\xff\x7f",
    "a text of negative length": b"}T\xff\xff\xff\xff",
    "a number of 255 bytes": b"}\x8a\xff" + b"\x01" * 255 + b".",
    "a text of four gigabytes": b"}X\xff\xff\xff\xff",
    "a memo that was never written": b"}j\xff\xff\xff\xff.",
    "nothing": b"",
    "no end": b"}",
    "an end without a value": b".",
    "a name without an end": b"cos" + b"a" * 1000,
    "items without a mark": b"}U\x01aK\x01u.",
    "an odd number of items": b"}(U\x01au.",
    "a key that is a list": b"}]K\x01s.",
    "items for a number": b"K\x01(K\x01e.",
    "reaching below a mark": b"}U\x01a(K\x01\x86.",
    "a list": b"].",
}


@pytest.mark.parametrize("data", BOMBS.values(), ids=BOMBS.keys())
def test_damage_and_bombs_end_in_words(data):
    """Broken: a crafted file would take all memory, or end in a traceback."""
    with pytest.raises(ValueError):
        _python2.read(data)


def test_values_that_share_and_nest_cost_what_the_file_costs():
    """Broken: a list of lists of lists … would grow without bounds, or overflow the interpreter's stack."""
    laughs = b"}U\x01a]q\x00" + b"".join(b"](h%ch%ceq%c" % (i, i, i + 1) for i in range(200))
    # Each list holds the one before twice; the last is the value.
    with pytest.raises(ValueError):
        _python2.read(laughs + b"s.")
    deep = _python2.read(b"}U\x01a" + b"]" * 100_000 + b"a" * 99_999 + b"s.")
    assert len(deep[b"a"]) == 1


def test_a_backslash_in_the_wrong_place_is_damage_and_no_warning():
    """Broken: with warnings as errors, one flipped byte of CIFAR's files would end in a traceback."""
    whole = array((2, 3), b"abcdef")
    for position in range(len(whole)):
        with contextlib.suppress(ValueError):
            _python2.read(whole[:position] + b"\\" + whole[position + 1 :])


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_any_damage_is_a_value_error_or_another_dictionary(data):
    """Broken: some flipped byte would end in a traceback."""
    whole = array((2, 3), b"abcdef")
    if data.draw(st.booleans()):
        position = data.draw(st.integers(0, len(whole) - 1))
        whole = whole[:position] + bytes([data.draw(st.integers(0, 255))]) + whole[position + 1 :]
    else:
        whole = whole[: data.draw(st.integers(0, len(whole) - 1))]
    with contextlib.suppress(ValueError):
        assert type(_python2.read(whole)) is dict
