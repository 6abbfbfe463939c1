"""Pickles of arrays: all that numpy writes is read, and nothing that a file says is done."""

from __future__ import annotations

import io
import pickle
import random
import struct

import numpy as np
import pytest

from utils import InputError
from utils.io.pickled_arrays import _load, read_noise_ceiling, read_pickled_array

RNG = np.random.default_rng(0)
CONTENTS = {
    "vectors": (RNG.random(5), RNG.random(5)),
    "orders of bytes and axes": [np.arange(6, dtype=">i4").reshape(2, 3).T, np.asfortranarray(RNG.random((3, 4)))],
    "scalars": [np.float32(3), np.int8(-1), 5, 2**70, 1.5, True, None, "x", b"y", ()],
    "containers": {"a": {"b": [np.zeros((0, 3)), np.array(2.0)]}, "c": (np.array([[True, False]]),)},
    "texts": {"names": np.array(["face", "Häuser"]), "bytes": np.array([b"a", b"bc"])},
    "objects": np.array([{"x": np.arange(3)}, "t", None, 2], dtype=object).reshape(2, 2),
}


def assert_same(found, expected) -> None:
    assert type(found) is type(expected)
    if isinstance(expected, np.ndarray):
        assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
        if expected.dtype == object:
            for one, other in zip(found.ravel(), expected.ravel(), strict=True):
                assert_same(one, other)
        else:
            np.testing.assert_array_equal(found, expected)
    elif isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for key, value in expected.items():
            assert_same(found[key], value)
    elif isinstance(expected, (list, tuple)):
        for one, other in zip(found, expected, strict=True):
            assert_same(one, other)
    else:
        assert found == expected


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("content", CONTENTS.values(), ids=CONTENTS)
def test_what_pickle_writes_is_read(content, protocol):
    assert_same(_load(io.BytesIO(pickle.dumps(content, protocol))), content)


def test_what_is_pickled_once_is_one_object():
    both = np.arange(4)
    first, second = _load(io.BytesIO(pickle.dumps([both, both])))
    assert first is second


def array_pickle(kind: bytes, shape: bytes, content: bytes, state: bytes = b"") -> bytes:
    """A pickled array, opcode by opcode, of a type whose state and content need not fit."""
    dtype = b"cnumpy\ndtype\n(X" + struct.pack("<I", len(kind)) + kind + b"K\x00K\x01tR" + state
    made = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85C\x01btR"
    data = b"B" + struct.pack("<I", len(content)) + content
    return b"\x80\x03" + made + b"(K\x01" + shape + dtype + b"\x89" + data + b"tb."


HOSTILE = {
    # With the flags of its type cleared, numpy would take the bytes for addresses of objects.
    "addresses": array_pickle(
        b"O8", b"K\x01\x85", b"A" * 8, b"(K\x03X\x01\x00\x00\x00|NNNJ" + b"\xff" * 4 + b"J" + b"\xff" * 4 + b"K\x00tb"
    ),
    "more values than bytes": array_pickle(b"f8", b"J\xff\xff\xff\x7f\x85", b"A" * 8),
    "fewer values than bytes": array_pickle(b"f8", b"K\x01\x85", b"A" * 16),
    "a negative length": array_pickle(b"f8", b"J\xff\xff\xff\xff\x85", b""),
    "a type with fields": array_pickle(b"V8", b"K\x01\x85", b"A" * 8),
    "a large place in the memo": b"\x80\x02K\x01r" + struct.pack("<I", 2**28) + b".",
    "a length beyond the end": b"\x80\x04\x8e" + struct.pack("<Q", 2**40) + b"x.",
    "os.system": b"\x80\x02cposix\nsystem\nX\x04\x00\x00\x00true\x85R.",
    "a module": b"\x80\x02cos\nsystem\n.",
    "a function": b"cnumpy\ndtype\n.",
    "an extension": b"\x80\x02\x82\x01.",
    "a persistent object": b"Px\n.",
    "nothing": b"",
    "no end": b"\x80\x02K\x01",
    "no mark": b"\x80\x02K\x01t.",
    "an empty stack": b"\x80\x020.",
}  # fmt: skip


@pytest.mark.parametrize("content", HOSTILE.values(), ids=HOSTILE)
def test_hostile_pickles_are_refused(tmp_path, content):
    (tmp_path / "noise_ceiling.pkl").write_bytes(content)
    with pytest.raises(InputError, match=r"noise_ceiling\.pkl: (refused, since|is not a readable pickle|found int)"):
        read_noise_ceiling(tmp_path / "noise_ceiling.pkl")


def test_npy_files_of_objects(tmp_path):
    path = tmp_path / "x.npy"
    np.save(path, np.array(CONTENTS["containers"], dtype=object), allow_pickle=True)
    assert_same(read_pickled_array(path), CONTENTS["containers"])
    whole = path.read_bytes()
    path.write_bytes(whole[: whole.index(b"\x80")] + HOSTILE["os.system"])
    with pytest.raises(InputError, match=r"x\.npy: refused, since it asks for 'posix.system'"):
        read_pickled_array(path)


def test_damaged_pickles_do_nothing_but_end(tmp_path):
    random.seed(1)
    path, sound = tmp_path / "noise_ceiling.pkl", 0
    for number in range(600):
        content = bytearray(pickle.dumps(CONTENTS["vectors"], number % 6))
        for _ in range(1 + number % 3):
            place = random.randrange(len(content))
            content[place : place + random.randrange(3)] = random.randbytes(random.randrange(4))
        path.write_bytes(content)
        try:
            read_noise_ceiling(path)
            sound += 1
        except InputError:
            pass
    assert 0 < sound < 500
