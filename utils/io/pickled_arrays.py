"""Arrays in pickles, read without unpickling: a file can neither run code nor make numpy misread memory.

A pickle is a program for a small machine. This one knows how containers, texts, numbers and arrays are put together,
and nothing else: what a pickle names is compared with the few names by which numpy writes arrays, but never imported.
Arrays are made here, from bytes whose number has to be that of the announced shape and type.
"""

from __future__ import annotations

import math
import pickletools
import re
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from utils import InputError
from utils.io.readers import readable

# What numpy of any version calls what it writes: the function, or the type, that puts a thing together.
_NAMES = {
    ("numpy", "dtype"): "dtype",
    ("numpy", "ndarray"): "ndarray",
    ("_codecs", "encode"): "encode",  # bytes, in old protocols
    ("__builtin__", "bytes"): "bytes",  # and none of them
} | {
    (f"numpy.{core}.{module}", name): name.lstrip("_")
    for core in ("core", "_core")
    for module, name in (("multiarray", "_reconstruct"), ("multiarray", "scalar"), ("numeric", "_frombuffer"))
}
_TYPE = re.compile(r"[<>=|]?(?:b1|[iu][1248]|f[248]|S\d{1,6}|U\d{1,6}|O8?)")
_MARK = object()
# Opcodes whose argument is a value.
_VALUES = {
    "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT", "STRING", "BINSTRING",
    "SHORT_BINSTRING", "UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES",
    "BINBYTES8", "BYTEARRAY8",
}  # fmt: skip


class _Refused(Exception):
    """What a pickle asks for beside arrays and containers of them."""


@dataclass(frozen=True)
class _Name:
    """Something by which numpy writes arrays."""

    what: str


@dataclass(eq=False)
class _Type:
    """Type of an array's elements; its byte order follows its name in a pickle."""

    name: str

    @property
    def dtype(self) -> np.dtype:
        return np.dtype(self.name)


@dataclass(eq=False)
class _Array:
    """An array, empty until its content follows in the pickle."""

    content: Any = None


def read_pickled_array(path: Path) -> Any:
    """Read a .npy file that holds a pickled object, such as a dictionary of arrays, without running code of the file.

    Parameters
    ----------
    path : Path

    Returns
    -------
    object
        Numbers, texts, arrays of them, and containers.

    Raises
    ------
    InputError
        If it holds anything else, or is no such file.
    """
    with readable(path, "numpy file"), path.open("rb") as file:
        first = np.lib.format.read_magic(file) == (1, 0)
        header = np.lib.format.read_array_header_1_0 if first else np.lib.format.read_array_header_2_0
        _, _, dtype = header(file)
        if dtype.kind != "O":
            raise InputError(f"{path}: holds an array of {dtype}, expected a dictionary of arrays")
        try:
            return np.ravel(_load(file))[0]
        except _Refused as refused:
            raise InputError(
                f"{path}: refused, since it asks for '{refused}'; expected a dictionary of numpy arrays and nothing "
                "else"
            ) from None


def read_noise_ceiling(path: Path) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Read the pickled noise ceilings of the release without running any code that the file may bring.

    Parameters
    ----------
    path : Path

    Returns
    -------
    lower, upper : ndarray of float64, shape (n_searchlights,)

    Raises
    ------
    InputError
        If the pickle holds anything but numpy arrays of numbers, or not two of them.
    """
    with readable(path, "pickle"), path.open("rb") as file:
        try:
            content = _load(file)
        except _Refused as refused:
            raise InputError(
                f"{path}: refused, since it asks for '{refused}'; expected two numpy arrays (lower, upper) and nothing "
                "else"
            ) from None
    arrays = content if isinstance(content, (tuple, list, np.ndarray)) else ()
    if len(arrays) != 2 or any(not isinstance(a, np.ndarray) or a.dtype.kind not in "fiu" for a in arrays):
        raise InputError(f"{path}: found {type(content).__name__}, expected two numpy arrays of numbers (lower, upper)")
    return np.asarray(arrays[0], dtype=np.float64), np.asarray(arrays[1], dtype=np.float64)


def _load(file: BinaryIO) -> Any:
    """The content of a pickle, from where the file stands.

    Raises
    ------
    _Refused
        If it asks for anything but arrays and containers.
    Exception
        Of any kind, if it is damaged.
    """
    with warnings.catch_warnings():  # of odd texts in old protocols
        warnings.simplefilter("ignore")
        return _run(pickletools.genops(file))


def _run(program: Iterable[tuple[pickletools.OpcodeInfo, Any, int | None]]) -> Any:
    stack: list[Any] = []
    memo: dict[int, Any] = {}
    for opcode, argument, _ in program:
        match opcode.name:
            case "STOP":
                return _finished(stack.pop(), {})
            case "PROTO" | "FRAME":
                pass
            case name if name in _VALUES:
                stack.append(argument)
            case "NONE" | "NEWTRUE" | "NEWFALSE":
                stack.append({"NONE": None, "NEWTRUE": True, "NEWFALSE": False}[opcode.name])
            case "PUT" | "BINPUT" | "LONG_BINPUT" | "MEMOIZE":
                memo[len(memo) if argument is None else argument] = stack[-1]
            case "GET" | "BINGET" | "LONG_BINGET":
                stack.append(memo[argument])
            case "MARK":
                stack.append(_MARK)
            case "POP":
                stack.pop()
            case "POP_MARK":
                _since_mark(stack)
            case "EMPTY_LIST" | "EMPTY_DICT" | "EMPTY_TUPLE":
                stack.append({"EMPTY_LIST": list, "EMPTY_DICT": dict, "EMPTY_TUPLE": tuple}[opcode.name]())
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                stack.append(tuple(_take(stack, int(opcode.name[-1]))))
            case "TUPLE":
                stack.append(tuple(_since_mark(stack)))
            case "LIST":
                stack.append(_since_mark(stack))
            case "DICT":
                items = _since_mark(stack)
                stack.append(dict(zip(items[::2], items[1::2], strict=True)))
            case "APPEND" | "APPENDS":
                items = _take(stack, 1) if opcode.name == "APPEND" else _since_mark(stack)
                list.extend(stack[-1], items)
            case "SETITEM" | "SETITEMS":
                items = _take(stack, 2) if opcode.name == "SETITEM" else _since_mark(stack)
                dict.update(stack[-1], zip(items[::2], items[1::2], strict=True))
            case "GLOBAL":
                stack.append(_named(*argument.split(" ", 1)))
            case "STACK_GLOBAL":
                stack.append(_named(*_take(stack, 2)))
            case "REDUCE":
                stack.append(_call(*_take(stack, 2)))
            case "BUILD":
                _build(stack[-2], stack.pop())
            case other:
                raise _Refused(other)
    raise ValueError("it has no end")


def _take(stack: list[Any], n: int) -> list[Any]:
    """Take the last values."""
    return [stack.pop() for _ in range(n)][::-1]


def _since_mark(stack: list[Any]) -> list[Any]:
    """Take the values above the last mark, and the mark."""
    items = []
    while (item := stack.pop()) is not _MARK:
        items.append(item)
    return items[::-1]


def _named(module: Any, name: Any) -> _Name:
    if (module, name) not in _NAMES:
        raise _Refused(f"{module}.{name}")
    return _Name(_NAMES[module, name])


def _call(called: Any, arguments: Any) -> Any:
    """What a call puts together, of the few that numpy writes."""
    what = called.what if isinstance(called, _Name) else "?"
    if what == "dtype" and _TYPE.fullmatch(str(arguments[0])):
        return _Type(str(arguments[0]))
    if what == "encode" and tuple(arguments[1:]) in (("latin1",), ("latin-1",)):
        return str(arguments[0]).encode("latin1")
    if what == "bytes" and not arguments:
        return b""
    if what == "reconstruct" and arguments[0] == _Name("ndarray"):
        return _Array()
    if what == "scalar":
        return _array_of(arguments[1], arguments[0], (), "C")[()]
    if what == "frombuffer":
        return _array_of(arguments[0], arguments[1], tuple(arguments[2]), str(arguments[3]))
    raise _Refused(what if what == "?" else f"{what}{arguments!r:.60}")


def _build(built: Any, state: Any) -> None:
    """Give the byte order to a type, or the content to an array."""
    if isinstance(built, _Type):
        # (version, byte order, no subarray, no fields, ...): what else is there follows from the type's name.
        if state[1] not in ("<", ">", "=", "|") or any(part is not None for part in state[2:5]):
            raise _Refused("a type with fields")
        built.name = state[1] + built.name.lstrip("<>=|")
    elif isinstance(built, _Array) and built.content is None:
        _, shape, dtype, in_columns, content = state
        built.content = _array_of(content, dtype, tuple(shape), "F" if in_columns else "C")
    else:
        raise _Refused(f"the state of a {type(built).__name__}")


def _array_of(content: Any, of: Any, shape: tuple[Any, ...], order: str) -> Any:
    """An array from its bytes, which have to be as many as it needs, or, for one of objects, a list of these."""
    if not isinstance(of, _Type) or not all(type(n) is int and n >= 0 for n in shape):
        raise ValueError("an array has no type or shape")
    size = math.prod(shape)
    if of.dtype.kind == "O":
        if not isinstance(content, list) or len(content) != size:
            raise ValueError(f"an array of {size} objects has others")
        return _Objects(content, shape, order)
    if isinstance(content, str):  # of Python 2
        content = content.encode("latin1")
    if len(content) != size * of.dtype.itemsize:
        raise ValueError(f"an array of {size} values of type {of.name} has {len(content)} bytes")
    return np.frombuffer(content, dtype=of.dtype).reshape(shape, order="F" if order == "F" else "C")


@dataclass(eq=False)
class _Objects:
    """An array of objects, which may still lack their content."""

    items: list[Any]
    shape: tuple[int, ...]
    order: str


def _finished(value: Any, done: dict[int, Any]) -> Any:
    """A value with arrays in place of what stands for them; each is made once, however often it is referred to."""
    if isinstance(value, (_Array, _Objects, list, tuple, dict)):
        if id(value) not in done:
            done[id(value)] = None  # of what contains itself
            done[id(value)] = _contents(value, done)
        return done[id(value)]
    if isinstance(value, (_Name, _Type)) or value is _MARK:
        raise _Refused("a type or a function")
    return value


def _contents(value: Any, done: dict[int, Any]) -> Any:
    if isinstance(value, _Array):
        return _finished(value.content, done)
    if isinstance(value, _Objects):
        array = np.empty(len(value.items), dtype=object)
        for number, item in enumerate(value.items):
            array[number] = _finished(item, done)
        return array.reshape(value.shape, order="F" if value.order == "F" else "C")
    if isinstance(value, dict):
        return {key: _finished(item, done) for key, item in value.items()}
    return type(value)(_finished(item, done) for item in value)
