"""Planetoid: Cora, Citeseer and Pubmed with their public split (Yang et al. 2016)."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain
from typing import Any, ClassVar

import numpy as np
import scipy.sparse as sp

from graphsec.datasets.base import About, Dataset, row_normalized
from graphsec.datasets.cache import DataCorruptError, File, read
from graphsec.datasets.pickles import load_pickle
from graphsec.datasets.splits import Strategy
from graphsec.graph import Graph, Split
from graphsec.registry import DATASETS
from graphsec.rng import Rng

# One commit, so that the bytes behind the address can't change.
_HOME = "https://github.com/kimiyoung/planetoid"
_AT = f"{_HOME}/raw/af6abf468a772cc055bec88c52e4d6f51b7c37e3/data"

_PARTS = ("allx", "ally", "tx", "ty", "y", "graph", "test.index")
_SUMS: dict[str, tuple[str | None, int]] = {
    "cora.allx": (
        "9419ba2f26f5c35243db64aba110e0f35a04851609e0dc5433450676ca6b8543",
        257305,
    ),
    "cora.ally": (
        "2b998f5cc7fedc86e7f97ca2498f47a1ffc1462c29e2d578b23bf3f62b6e7d71",
        47959,
    ),
    "cora.tx": (
        "b9afbaa4a400df991f6f02ef677e1e44da55ffc04801fd02f9e673987829226a",
        148025,
    ),
    "cora.ty": (
        "41f5ac76596a1699cc33f53084a2419e92961c42bb75f36fc38e616d348532ad",
        28135,
    ),
    "cora.y": (
        "94465c14eb53e04ca262198dcbb2521ee8af60fb3f3d546cd6ca24a511b0e7d1",
        4054,
    ),
    "cora.graph": (
        "58f13302f39dde8852dad6fe6d15b89b077b6d7f837626bce671ef80344b383d",
        59847,
    ),
    "cora.test.index": (
        "297ce89af2b51a6a194181c7dbe1796c6a1cf9cd9349a88383b1b1e227867875",
        5000,
    ),
    "citeseer.allx": (
        "2ac30345d95c9ec933a817ee0bdd6a5f077f8c184a20e696910192d534414668",
        595021,
    ),
    "citeseer.ally": (
        "f704b2d986dde6c2669934de1f3ae5696a6cf9455c0f6b2646a2d135ea0a1c95",
        55623,
    ),
    "citeseer.tx": (
        "539a8906a2da97628d212f2fdd668c109a8b3f0d36574b59e5d3fd5b5303da21",
        260321,
    ),
    "citeseer.ty": (
        "55e5bd1ba1e733a04598753ad1a8d57957f4b8f89e74519f41f4f4938767e4ce",
        24135,
    ),
    "citeseer.y": (
        "8ba87e515d8e3ee3cf52f6d2c5b86aa73f11ecad825a808455209ec26cd54924",
        3014,
    ),
    "citeseer.graph": (
        "d79a4ef9d3e7169aee8946145f6b7306e35bc79bffad26346cfb94e10e9912a7",
        61987,
    ),
    "citeseer.test.index": (
        "2af990671580b6b2df5d158d1038f8292e30c9cd821b5453f399659b25b723d4",
        5000,
    ),
    # Too large for the copy we measured; see cache.TRUST.
    "pubmed.allx": (None, 0),
    "pubmed.ally": (
        "0c37bbe3b5014ec365e9d393cf4791925e5ed94fb194305d74f064a8d7b50f0e",
        224739,
    ),
    "pubmed.tx": (
        "4eb5f5d0f30f26497eb0ac6ac9719d09c67e284f1ed0385c93f3ef27a671da3d",
        405505,
    ),
    "pubmed.ty": (
        "ee2e0d4819d9fbcc403689c3bf2e49face401b605932f093bc58ab6461130fdd",
        12135,
    ),
    "pubmed.y": (
        "e6c807633307a07ed659249006536a147c7999c797f11a2560752990181b41b3",
        854,
    ),
    "pubmed.graph": (
        "5b89f0036ca22909471f1e6558eb42fa06e0c730a577bde5b058b40638f81dc9",
        471808,
    ),
    "pubmed.test.index": (
        "b101d421688bbaecbd82e8a18f1e282378d6830f3a37666f28ebc47f844341b5",
        6000,
    ),
}


def _files(name: str) -> tuple[File, ...]:
    made = []
    for part in _PARTS:
        digest, size = _SUMS[f"{name}.{part}"]
        made.append(File(f"planetoid/ind.{name}.{part}", f"{_AT}/ind.{name}.{part}", digest, size))
    return tuple(made)


@dataclass(frozen=True, kw_only=True)
class Planetoid(Dataset):
    """A citation graph: papers, bag-of-words features (sparse), citations read as undirected.

    The public split trains on 20 nodes a class, validates on the 500 after them and tests on
    the 1,000 of ``test.index``.

    Attributes:
        normalize: Divide each row of the features by its sum, as Kipf & Welling (2017) do.
    """

    default_split: ClassVar[Strategy] = "public"
    public: ClassVar[bool] = True

    normalize: bool = True

    def read(self, rng: Rng) -> Graph:
        """Read the seven files."""
        content = read(self.files)
        parts: dict[str, Any] = {}
        for file in self.files:
            part = file.name.split(".", 2)[2]
            raw = content[file.name]
            parts[part] = (
                _lines(raw, file.name) if part == "test.index" else load_pickle(raw, file.name)
            )
        x, y, test, known = _assembled(parts, self.name)
        split = None
        if self.strategy == "public":
            split = Split.of(np.arange(known), np.arange(known, known + 500), np.sort(test))
        return Graph.from_edges(
            _edges(parts["graph"], len(y), self.name),
            len(y),
            x=row_normalized(x) if self.normalize else x,
            y=y,
            split=split,
            name=self.name,
        )


def _lines(content: bytes, name: str) -> np.ndarray:
    """One integer a line."""
    try:
        return np.array(content.decode("ascii").split(), np.int64)
    except (ValueError, OverflowError) as error:
        raise DataCorruptError(f"{name}: must hold one integer a line ({error})") from error


def _assembled(
    parts: dict[str, Any], name: str
) -> tuple[sp.csr_matrix, np.ndarray, np.ndarray, int]:
    """Put rows in node order.

    Row i of ``tx`` belongs to node ``test.index[i]``; the rows before are ``allx``. In Citeseer
    15 numbers of that range are in no file: isolated nodes without features or label, which get
    zeros and −1 (not class 0, which would be a guess).

    Returns:
        Features (n, d), labels (n,), test nodes, and the number of training nodes.
    """
    allx, tx, index = parts["allx"], parts["tx"], parts["test.index"]
    ally, ty, y = parts["ally"], parts["ty"], parts["y"]
    if not (isinstance(allx, sp.csr_matrix) and isinstance(tx, sp.csr_matrix)):
        raise DataCorruptError(f"{name}: allx and tx must be CSR matrices")
    if any(not isinstance(part, np.ndarray) or part.ndim != 2 for part in (ally, ty, y)):
        raise DataCorruptError(f"{name}: ally, ty and y must be one-hot arrays")
    first = allx.shape[0]
    agree = (
        len(ally) == first
        and len(ty) == tx.shape[0] == len(index)
        and tx.shape[1] == allx.shape[1]
        and ally.shape[1] == ty.shape[1]
        and len(y) + 500 <= first
        and len(np.unique(index)) == len(index) > 0
        and index.min() == first
        and index.max() < first + 2 * len(index)
    )
    if not agree:
        raise DataCorruptError(f"{name}: the sizes of its files disagree")
    n = int(index.max()) + 1
    place = np.concatenate([np.arange(first), index])
    order = sp.csr_matrix((np.ones(len(place)), (place, np.arange(len(place)))), (n, len(place)))
    x = sp.csr_matrix(order @ sp.vstack([allx, tx]), dtype=np.float32)
    hot = np.vstack([ally, ty])
    labels = np.full(n, -1)
    labels[place] = np.where(hot.any(axis=1), hot.argmax(axis=1), -1)
    return x, labels, index, len(y)


def _edges(graph: Any, n: int, name: str) -> np.ndarray:
    """(2, m) from the dictionary node → neighbours."""
    try:
        nodes = np.fromiter(graph.keys(), np.int64, len(graph))
        counts = np.fromiter((len(row) for row in graph.values()), np.int64, len(graph))
        ends = np.fromiter(chain.from_iterable(graph.values()), np.int64, int(counts.sum()))
    except (TypeError, ValueError, AttributeError, OverflowError) as error:
        raise DataCorruptError(f"{name}: graph must map nodes to lists of nodes") from error
    return np.stack([np.repeat(nodes, counts), ends])


@DATASETS.register("planetoid/cora", "cora")
@dataclass(frozen=True, kw_only=True)
class Cora(Planetoid):
    """Cora: papers on machine learning in seven fields (Sen et al. 2008; Yang et al. 2016)."""

    files: ClassVar[tuple[File, ...]] = _files("cora")
    about: ClassVar[About] = About(2708, 5278, 1433, 7, "", "MIT (repository)", _HOME)


@DATASETS.register("planetoid/citeseer", "citeseer")
@dataclass(frozen=True, kw_only=True)
class Citeseer(Planetoid):
    """Citeseer: computer science papers in six fields (Sen et al. 2008; Yang et al. 2016).

    48 nodes are isolated; 15 of them have neither features nor a label.
    """

    files: ClassVar[tuple[File, ...]] = _files("citeseer")
    about: ClassVar[About] = About(3327, 4552, 3703, 6, "", "MIT (repository)", _HOME)


@DATASETS.register("planetoid/pubmed", "pubmed")
@dataclass(frozen=True, kw_only=True)
class Pubmed(Planetoid):
    """Pubmed: papers on diabetes in three kinds, TF-IDF features (Sen et al. 2008)."""

    files: ClassVar[tuple[File, ...]] = _files("pubmed")
    about: ClassVar[About] = About(19717, 44324, 500, 3, "", "MIT (repository)", _HOME)
