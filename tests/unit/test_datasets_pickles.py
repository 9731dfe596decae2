"""Safe reading: malicious, truncated and crafted pickles and npz files."""

from __future__ import annotations

import collections
import io
import os
import pickle
import subprocess
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp

from graphsec.datasets.cache import DataCorruptError
from graphsec.datasets.pickles import csr, load_npz, load_pickle


class Runs:
    """Unpickling it calls a function."""

    def __init__(self, call: Any, *args: Any) -> None:
        self.call, self.args = call, args

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call, self.args


def old(value: Any) -> bytes:
    """A pickle with the module names of the published files."""
    made = pickle.dumps(value, protocol=3)
    names = {
        b"cnumpy._core.multiarray\n": b"cnumpy.core.multiarray\n",
        b"cscipy.sparse._csr\n": b"cscipy.sparse.csr\n",
    }
    for new, was in names.items():
        made = made.replace(new, was)
    return made


def npz(**arrays: bytes | np.ndarray) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for key, value in arrays.items():
            if isinstance(value, np.ndarray):
                inner = io.BytesIO()
                np.save(inner, value, allow_pickle=False)
                value = inner.getvalue()
            archive.writestr(f"{key}.npy", value)
    return stream.getvalue()


def boxed(value: bytes) -> bytes:
    """An npy file of one object, whose pickle is given."""
    header = b"{'descr': '|O', 'fortran_order': False, 'shape': (), }"
    header += b" " * (117 - len(header)) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + value


# -- what must be read --------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["<f4", ">f8", "<i4", "|i1", "|b1", "<u2"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_arrays(dtype: str, order: Any) -> None:
    array = np.asarray(np.arange(6).reshape(2, 3) % 2, dtype=dtype, order=order)
    made = load_pickle(old(array), "x")
    np.testing.assert_array_equal(made, array)
    assert made.dtype == array.dtype


def test_matrix_and_containers() -> None:
    matrix = sp.random(5, 7, 0.4, "csr", np.float32, random_state=0)
    value = {"m": matrix, "list": [1, (2.5, None, "a")], "objects": np.array([1, "b"], object)}
    made = load_pickle(old(value), "x")
    assert (made["m"] != matrix).nnz == 0
    assert made["list"] == [1, (2.5, None, "a")]
    assert made["objects"].tolist() == [1, "b"]


def test_defaultdict_of_python_2() -> None:
    # As Python 2 wrote it: __builtin__.list, and strings of bytes.
    graph = collections.defaultdict(list, {0: [1, 2], 1: [0]})
    made = load_pickle(pickle.dumps(graph, protocol=2), "x")
    assert made == {0: [1, 2], 1: [0]}
    assert type(made) is dict


def test_object_in_npz() -> None:
    matrix = sp.eye(3, format="csr")
    box = np.empty((), object)
    box[()] = matrix
    made = load_npz(npz(adj=boxed(old(box)), y=np.arange(3)), "f", ["adj", "y"])
    assert (made["adj"] != matrix).nnz == 0
    np.testing.assert_array_equal(made["y"], np.arange(3))


# -- what must not run --------------------------------------------------------------------------


EVIL = [os.system, eval, exec, subprocess.Popen, __import__, getattr, open, pickle.loads]


@pytest.mark.parametrize("call", EVIL, ids=lambda call: call.__name__)
def test_call_is_refused_and_not_made(call: Any, tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    text = f"touch {mark}" if call in (os.system, subprocess.Popen) else f"open({str(mark)!r}, 'w')"
    evil = pickle.dumps(Runs(call, text), protocol=2)
    with pytest.raises(DataCorruptError, match=r"f\.pkl: refused, the pickle names .* allow-list"):
        load_pickle(evil, "f.pkl")
    assert not mark.exists()


def test_call_inside_an_npz_is_refused(tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    evil = pickle.dumps([1, Runs(os.system, f"touch {mark}")], protocol=2)
    with pytest.raises(DataCorruptError, match=r"f\.npz: adj: refused, .*posix\.system"):
        load_npz(npz(adj=boxed(evil)), "f.npz", ["adj"])
    assert not mark.exists()


def test_unwanted_array_is_not_looked_at() -> None:
    evil = pickle.dumps(Runs(os.system, "false"), protocol=2)
    assert load_npz(npz(evil=boxed(evil), y=np.arange(2)), "f", ["y"])["y"].tolist() == [0, 1]


def test_dotted_name_does_not_reach_through() -> None:
    # Protocol 4 lets a name have dots: numpy.core.multiarray._reconstruct.__globals__ …
    evil = b"\x80\x04\x8c\x05numpy\x8c\x10ndarray.__init__\x93."
    with pytest.raises(DataCorruptError, match=r"names numpy\.ndarray\.__init__"):
        load_pickle(evil, "f")


CRAFTED: dict[str, bytes] = {
    "state of an allowed function": b"\x80\x02ccollections\ndefaultdict\n"
    b"}X\x01\x00\x00\x00aK\x01sb.",
    "state of an allowed class": b"\x80\x02cnumpy\nndarray\n}b.",
    "defaultdict of a class": b"\x80\x02ccollections\ndefaultdict\ncnumpy\nndarray\n\x85R.",
    "reconstruct something else": b"\x80\x02cnumpy.core.multiarray\n_reconstruct\n"
    b"ccollections\ndefaultdict\nK\x00\x85X\x01\x00\x00\x00b\x87R.",
    "void dtype": b"\x80\x02cnumpy\ndtype\nX\x02\x00\x00\x00V8\x85R.",
    "bare dtype": b"\x80\x02cnumpy\ndtype\nX\x02\x00\x00\x00f8\x85R.",
    "array without state": b"\x80\x02cnumpy\nndarray\n)\x81.",
    "matrix without state": b"\x80\x02cscipy.sparse.csr\ncsr_matrix\n)\x81.",
    "list called": b"\x80\x02c__builtin__\nlist\n)R.",
    "huge memo": b"\x80\x02K\x01r\xff\xff\xff\xff.",
    "huge string": b"\x80\x02T\xff\xff\xff\x7fabc.",
    "extension": b"\x80\x02\x82\x01.",
    "persistent id": b"\x80\x02X\x01\x00\x00\x00aQ.",
    "contains itself": b"\x80\x02]q\x00h\x00a.",
    "a hundred thousand lists": b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b".",
    "empty": b"",
    "text": b"this is no pickle",
}  # fmt: skip


@pytest.mark.parametrize("case", CRAFTED)
def test_crafted_pickle_gives_one_clear_error(case: str) -> None:
    with pytest.raises(DataCorruptError, match=r"^f\.pkl: "):
        load_pickle(CRAFTED[case], "f.pkl")


def test_crafted_pickles_leave_the_reader_intact() -> None:
    for evil in CRAFTED.values():
        with pytest.raises(DataCorruptError):
            load_pickle(evil, "f")
    test_matrix_and_containers()
    test_defaultdict_of_python_2()


def test_every_truncation_is_found() -> None:
    whole = old({"m": sp.eye(3, format="csr"), "a": np.arange(4)})
    for length in range(0, len(whole), 7):
        with pytest.raises(DataCorruptError):
            load_pickle(whole[:length], "f")


def test_flipped_bytes_change_values_or_fail_cleanly() -> None:
    whole = old({"m": sp.eye(3, format="csr"), "a": np.arange(4)})
    failed = 0
    for place in range(len(whole)):
        bent = whole[:place] + bytes([whole[place] ^ 0x55]) + whole[place + 1 :]
        try:  # any other exception fails the test
            load_pickle(bent, "f")
        except DataCorruptError:
            failed += 1
    assert failed > len(whole) // 2


def test_array_with_too_few_bytes() -> None:
    # 1,000 float64 promised, 8 bytes given.
    made = old(np.zeros(1)).replace(b"K\x01\x85", b"M\xe8\x03\x85")
    with pytest.raises(DataCorruptError, match="must have 8000 bytes, found 8"):
        load_pickle(made, "f")


MATRICES: dict[str, tuple[Any, Any, Any, Any]] = {
    "column out of range": ([1.0], [9], [0, 1, 1], (2, 3)),
    "negative column": ([1.0], [-1], [0, 1, 1], (2, 3)),
    "indptr too short": ([1.0], [0], [0, 1], (2, 3)),
    "indptr falls": ([1.0, 1.0], [0, 1], [0, 2, 1], (2, 3)),
    "indptr beyond the data": ([1.0], [0], [0, 1, 9], (2, 3)),
    "indptr from 1": ([1.0], [0], [1, 1, 1], (2, 3)),
    "negative shape": ([1.0], [0], [0, 1], (-1, 3)),
    "huge shape": ([1.0], [0], [0, 1], (1, 2**40)),
    "shape of three": ([1.0], [0], [0, 1], (1, 3, 1)),
    "text as data": (["a"], [0], [0, 1], (1, 3)),
    "fractional places": ([1.0], [0.5], [0, 1], (1, 3)),
    "unequal lengths": ([1.0, 2.0], [0], [0, 1], (1, 3)),
    "no shape": ([1.0], [0], [0, 1], None),
}


@pytest.mark.parametrize("case", MATRICES)
def test_bad_matrix(case: str) -> None:
    with pytest.raises(DataCorruptError, match=r"^f: "):
        csr(*MATRICES[case], "f")


# -- npz ------------------------------------------------------------------------------------------


def test_half_written_npz() -> None:
    whole = npz(a=np.arange(1000), b=np.arange(1000))
    for length in (0, 10, len(whole) // 2, len(whole) - 1):
        with pytest.raises(DataCorruptError, match=r"f\.npz: not a readable npz file"):
            load_npz(whole[:length], "f.npz", ["a", "b"])


def test_damaged_member() -> None:
    whole = bytearray(npz(a=np.random.default_rng(0).integers(0, 9, 1000)))
    whole[400] ^= 0xFF
    with pytest.raises(DataCorruptError, match=r"f\.npz"):
        load_npz(bytes(whole), "f.npz", ["a"])


def test_missing_array_names_those_found() -> None:
    with pytest.raises(DataCorruptError, match="array 'adj' is missing, found x, y"):
        load_npz(npz(x=np.arange(2), y=np.arange(2)), "f.npz", ["adj"])


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x93NUMPY\x09\x00",
        b"\x93NUMPY\x01\x00\x40\x00__import__('os').system('false')",
        boxed(b"")[:40],
    ],
)
def test_bad_npy_inside(content: bytes) -> None:
    with pytest.raises(DataCorruptError, match=r"f\.npz"):
        load_npz(npz(a=content), "f.npz", ["a"])


def test_array_shorter_than_its_shape() -> None:
    inner = io.BytesIO()
    np.save(inner, np.arange(100))
    with pytest.raises(DataCorruptError, match="must have 800 bytes, found 760"):
        load_npz(npz(a=inner.getvalue()[:-40]), "f.npz", ["a"])


def test_bomb_is_refused_before_it_unpacks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("graphsec.datasets.pickles.LARGEST", 10**5)
    with pytest.raises(DataCorruptError, match="at most 100,000 bytes"):
        load_npz(npz(a=np.zeros(10**5)), "f.npz", ["a"])
