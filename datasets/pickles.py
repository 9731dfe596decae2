"""Safe readers for published pickles and npz files.

A pickle is a program. The files of the field need six names; this reader maps those to inert
stand-ins that only record what they are given, refuses every other name, and builds numpy and
scipy objects from the records by hand, so that neither code nor a crafted state gets through.
"""

from __future__ import annotations

import io
import math
import pickle
import re
import zipfile
import zlib
from collections.abc import Iterable
from typing import Any, NoReturn

import numpy as np
import scipy.sparse as sp
from numpy.lib import format as npy

from graphsec.datasets.cache import DataCorruptError

# Larger than any published file we read, small enough not to exhaust a machine.
LARGEST = 2**30


def load_pickle(content: bytes, name: str) -> Any:
    """Read a pickle made of numbers, strings, containers, numpy arrays and CSR matrices.

    Python 2's strings are read as latin1, as numpy's raw bytes need.

    Args:
        content: The whole file.
        name: File name, for messages.

    Raises:
        DataCorruptError: Truncated, malformed, or it names something off the allow-list.
    """
    try:
        return _real(_Reader(io.BytesIO(content), encoding="latin1").load())
    except _Refused as refused:
        raise DataCorruptError(f"{name}: refused, the pickle {refused}") from None
    except Exception as error:
        # A malformed pickle can raise nearly anything, MemoryError and RecursionError included.
        reason = f"{type(error).__name__}: {error}"
        raise DataCorruptError(f"{name}: not a readable pickle ({reason})") from error


def load_npz(content: bytes, name: str, keys: Iterable[str]) -> dict[str, Any]:
    """Read some arrays of an npz file; an object array of one element gives the element.

    Args:
        content: The whole file.
        name: File name, for messages.
        keys: Arrays wanted; the others are not looked at.

    Raises:
        DataCorruptError: Half-written, malformed, or an array is missing or unsafe.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            return {key: _member(archive, key, name) for key in keys}
    except DataCorruptError:
        raise
    except (
        zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError, RuntimeError,
        ValueError, MemoryError,
    ) as error:  # fmt: skip
        raise DataCorruptError(
            f"{name}: not a readable npz file, or only half of one ({error})"
        ) from error


def csr(data: Any, indices: Any, indptr: Any, shape: Any, name: str) -> sp.csr_matrix:
    """A scipy CSR matrix, after checking every rule scipy's C code takes on trust.

    Raises:
        DataCorruptError: The parts don't make a matrix.
    """
    data, indices, indptr = (np.asarray(part) for part in (data, indices, indptr))
    size = np.asarray(shape).ravel()
    whole = all(part.dtype.kind in "iu" for part in (indices, indptr, size))
    if data.dtype.kind not in "biuf" or not whole:
        _corrupt(name, "a CSR matrix must hold numbers at integer places")
    if any(part.ndim != 1 for part in (data, indices, indptr)) or len(size) != 2:
        _corrupt(name, "a CSR matrix must be made of three vectors and a shape of two")
    rows, columns = (int(side) for side in size)
    if not (0 <= rows < 2**31 and 0 <= columns < 2**31):
        _corrupt(name, f"a CSR matrix must have a shape within 0…2³¹, found {rows}×{columns}")
    if (
        len(indptr) != rows + 1
        or int(indptr[0]) != 0
        or (np.diff(indptr.astype(np.int64)) < 0).any()
    ):
        _corrupt(name, f"indptr must rise from 0 in {rows + 1} steps")
    if not int(indptr[-1]) == len(indices) == len(data):
        _corrupt(name, f"indptr must end at {len(indices)}, found {int(indptr[-1])}")
    if len(indices) and (int(indices.min()) < 0 or int(indices.max()) >= columns):
        _corrupt(name, f"column indices must lie in 0…{columns - 1}")
    return sp.csr_matrix((data, indices, indptr), shape=(rows, columns))


def _corrupt(name: str, rule: str) -> NoReturn:
    raise DataCorruptError(f"{name}: {rule}")


# -- npz --------------------------------------------------------------------------------------


def _member(archive: zipfile.ZipFile, key: str, name: str) -> Any:
    try:
        info = archive.getinfo(f"{key}.npy")
    except KeyError:
        found = ", ".join(sorted(entry.removesuffix(".npy") for entry in archive.namelist()))
        _corrupt(name, f"array {key!r} is missing, found {found or 'nothing'}")
    if info.file_size > LARGEST:
        _corrupt(
            name, f"array {key!r} must hold at most {LARGEST:,} bytes, found {info.file_size:,}"
        )
    stream = io.BytesIO(archive.read(info))
    version = npy.read_magic(stream)
    if version not in ((1, 0), (2, 0)):
        _corrupt(name, f"array {key!r} must be of npy format 1 or 2, found {version}")
    header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, fortran, dtype = header(stream)
    body = stream.read()
    label = f"{name}: {key}"
    if dtype.hasobject:
        made = load_pickle(body, label)
        return made.item() if isinstance(made, np.ndarray) and made.shape == () else made
    return _array(shape, dtype, fortran, body, label)


def _array(
    shape: tuple[int, ...], dtype: np.dtype[Any], fortran: bool, raw: bytes, name: str
) -> np.ndarray:
    """An array from its bytes, which must be exactly as many as the shape says."""
    if any(not isinstance(side, int) or side < 0 for side in shape):
        _corrupt(name, f"an array's shape must be non-negative integers, found {shape}")
    need = math.prod(shape) * dtype.itemsize
    if len(raw) != need:
        _corrupt(name, f"an array of shape {shape} must have {need} bytes, found {len(raw)}")
    flat = np.frombuffer(raw, dtype) if need else np.zeros(math.prod(shape), dtype)
    # Copied, as numpy arrays over bytes can't be written and torch warns of that.
    return flat.reshape(shape, order="F" if fortran else "C").copy()


# -- pickles ----------------------------------------------------------------------------------


class _Refused(Exception):
    """The pickle asks for something off the allow-list."""


class _Call:
    """A callable that a pickle may name; it has no state for a pickle to change."""

    __slots__ = ()

    def __setstate__(self, state: object) -> None:
        raise _Refused("sets the state of a function")


class _List(_Call):
    """Stands for Python 2's ``list``, the factory of a defaultdict; never called."""

    __slots__ = ()


class _Defaultdict(_Call):
    __slots__ = ()

    def __call__(self, factory: object = None) -> dict[Any, Any]:
        if factory is not None and not isinstance(factory, _List):
            raise _Refused("makes a defaultdict of something other than lists")
        return {}


class _Dtype:
    """Records a numpy dtype: its code, and the byte order in its state."""

    __slots__ = ("code", "order")

    def __init__(self, code: object, *_: object) -> None:
        if not isinstance(code, str) or not re.fullmatch(r"[biufSUO]\d{0,6}", code):
            raise _Refused(f"makes an array of type {code!r}")
        self.code, self.order = code, "|"

    def __setstate__(self, state: Any) -> None:
        if not isinstance(state, tuple) or len(state) < 5 or any(state[2:5]):
            raise _Refused("makes a structured array")
        if not isinstance(state[1], str) or state[1] not in ("<", ">", "|", "="):
            raise ValueError(f"byte order {state[1]!r}")
        self.order = state[1]

    def real(self) -> np.dtype[Any]:
        return np.dtype("O") if self.code[0] == "O" else np.dtype(self.order + self.code)


class _Array:
    """Records a numpy array: shape, dtype, order of storage and raw bytes."""

    __slots__ = ("state",)

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def real(self) -> np.ndarray:
        _, shape, dtype, fortran, raw = self.state
        if not isinstance(dtype, _Dtype) or not isinstance(shape, tuple):
            raise ValueError("an array without type or shape")
        if dtype.code[0] == "O":
            if not isinstance(raw, list) or len(raw) != math.prod(shape):
                raise ValueError("an object array whose length differs from its shape")
            made = np.empty(len(raw), object)
            for place, item in enumerate(raw):
                made[place] = _real(item)
            return made.reshape(shape, order="F" if fortran else "C")
        content = raw.encode("latin1") if isinstance(raw, str) else raw
        return _array(shape, dtype.real(), bool(fortran), content, "array")


class _Reconstruct(_Call):
    __slots__ = ()

    def __call__(self, kind: object, *_: object) -> _Array:
        if kind is not _Array:
            raise _Refused("rebuilds something other than a numpy array")
        return _Array()


class _Csr:
    """Records a scipy CSR matrix: the dictionary of its attributes."""

    __slots__ = ("state",)

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def real(self) -> sp.csr_matrix:
        state = self.state
        if not isinstance(state, dict):
            raise ValueError("a CSR matrix without state")
        data, indices, indptr = (_real(state[key]) for key in ("data", "indices", "indptr"))
        return csr(data, indices, indptr, state.get("_shape"), "CSR matrix")


_ALLOWED: dict[tuple[str, str], Any] = {
    ("numpy", "dtype"): _Dtype,
    ("numpy", "ndarray"): _Array,
    ("numpy.core.multiarray", "_reconstruct"): _Reconstruct(),
    ("scipy.sparse.csr", "csr_matrix"): _Csr,
    ("collections", "defaultdict"): _Defaultdict(),
    ("__builtin__", "list"): _List(),
}


class _Reader(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        try:
            return _ALLOWED[module, name]
        except KeyError:
            raise _Refused(f"names {module}.{name}, which isn't on the allow-list") from None


def _real(value: Any) -> Any:
    """The object behind the stand-ins, containers walked through."""
    if isinstance(value, _Array | _Csr):
        return value.real()
    if type(value) is dict:
        return {key: _real(item) for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_real(item) for item in value)
    if value is None or isinstance(value, bool | int | float | str | bytes):
        return value
    raise _Refused(f"holds a {type(value).__name__}")
