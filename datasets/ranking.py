"""Users and the items they took: graphs for recommenders, with held-out interactions."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import numpy as np
import scipy.sparse as sp
import torch
from pydantic import Field

from graphsec.datasets.base import About, Dataset
from graphsec.datasets.cache import DataCorruptError, File, read
from graphsec.graph import Graph, Holdout
from graphsec.registry import DATASETS, SpecError
from graphsec.rng import Rng

_HUB = "https://github.com"
_MOVIELENS = (
    f"{_HUB}/yushundong/Graph-Mining-Fairness-Data/raw/2bd4b5cd9a09d87e93c8efc490773cbfa0a7984e"
)
_LASTFM = f"{_HUB}/gusye1234/LightGCN-PyTorch/raw/947ca2b3b1d2d3545b114145710cb06c4e57b3d2"
_GOWALLA = f"{_HUB}/geon0325/LightGCNpp/raw/a394f79a7aceb8f485f6bcb549b4865fe83f1d49"

Share = Annotated[float, Field(ge=0, le=0.5)]


@dataclass(frozen=True, kw_only=True)
class Ranking(Dataset):
    """A bipartite graph of users (first) and items; edges are the interactions to train on.

    Which interactions are held out is drawn user by user: of a user's n interactions
    ⌊n · share + ½⌋ are tested and as many validated, in random order, so that users of few
    interactions keep them all.

    Attributes:
        test: Share of each user's interactions that is tested.
        val: Share of each user's interactions that is validated on.
        asks: Task of its graphs.
    """

    default_split: ClassVar[str] = "none"
    asks: ClassVar[Literal["ranking", "rating"]] = "ranking"

    test: Share = 0.1
    val: Share = 0.1

    def __post_init__(self) -> None:
        if self.split not in (None, "none"):
            raise SpecError(
                f"dataset {self.name!r}: split must be 'none' (held-out interactions are set by "
                f"test and val), got {self.split!r}"
            )
        super().__post_init__()

    @property
    def task(self) -> str:
        """Ranking, or rating."""
        return self.asks

    @property
    def seeded(self) -> bool:
        """The held-out interactions are drawn."""
        return True

    def read(self, rng: Rng) -> Graph:
        """Read the interactions and hold some out."""
        pairs, rating, users, items = self.interactions()
        part = held_out(pairs[0], self.val, self.test, rng["holdout"])
        return ranking_graph(pairs, part, users, items, self.name, rating, self.asks)

    def interactions(self) -> tuple[np.ndarray, np.ndarray | None, int, int]:
        """((2, m) distinct pairs of user and item, each from 0, ratings, users, items)."""
        raise NotImplementedError


def held_out(user: np.ndarray, val: float, test: float, rng: Rng) -> np.ndarray:
    """(m,) part of each interaction: 0 training, 1 validation, 2 test; see ``Ranking``."""
    order = np.lexsort((rng.numpy().random(len(user)), user))
    count = np.bincount(user)
    rank = np.empty(len(user), np.int64)
    rank[order] = np.arange(len(user)) - np.repeat(count.cumsum() - count, count)
    tested, validated = (np.floor(count * share + 0.5)[user] for share in (test, val))
    return np.where(rank < tested, 2, np.where(rank < tested + validated, 1, 0))


def ranking_graph(
    pairs: np.ndarray, part: np.ndarray, users: int, items: int, name: str,
    rating: np.ndarray | None = None, task: Literal["ranking", "rating"] = "ranking",
) -> Graph:  # fmt: skip
    """The graph of the interactions of part 0; parts 1 and 2 are its holdout.

    Args:
        pairs: (2, m) distinct pairs of user and item, each numbered from 0.
        part: (m,) 0 training, 1 validation, 2 test.
        users: Number of users.
        items: Number of items.
        name: Name of the graph.
        rating: (m,) what the user thought of the item; the training part becomes ``edge_y``.
        task: Whether items are ranked, or ratings predicted: those held out go with their pairs.
    """
    n = users + items
    nodes = pairs + np.array([[0], [users]])
    train, val, test = (nodes[:, part == which] for which in range(3))
    held = [] if rating is None or task == "ranking" else [rating[part == w] for w in (1, 2)]
    graph = Graph.from_edges(
        train, n, node_type=np.repeat([0, 1], [users, items]), task=task, name=name,
        holdout=Holdout.of(val, test, *held),
    )  # fmt: skip
    if rating is None:
        return graph
    kept = rating[part == 0].astype(np.float32)
    both = sp.csr_matrix((np.r_[kept, kept], np.c_[train, train[::-1]]), shape=(n, n))
    both.sort_indices()
    return graph.replace(edge_y=torch.from_numpy(both.data))


def numbers(content: bytes, name: str, columns: int | None = None) -> np.ndarray:
    """The numbers of a text of numbers and white space, (rows, columns) if columns are given."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # numpy only warns when it stops at other text
            found = np.fromstring(content, dtype=np.float64, sep=" ")
        return found if columns is None else found.reshape(-1, columns)
    except (ValueError, DeprecationWarning) as error:
        raise DataCorruptError(f"{name}: must hold rows of numbers ({error})") from error


def adjacency_lines(content: bytes, name: str) -> np.ndarray:
    """(2, m) from lines that hold a user and then the user's items."""
    values = numbers(content, name)
    text = np.frombuffer(content, np.uint8)
    blank = text <= 32
    first = ~blank & np.r_[True, blank[:-1]]  # where a number starts
    line = (text == 10).cumsum()[first]
    head = np.r_[True, line[1:] != line[:-1]]
    if len(line) != len(values):
        raise DataCorruptError(f"{name}: must hold whole numbers separated by white space")
    owner = values[head][head.cumsum() - 1]
    return np.stack([owner, values])[:, ~head].astype(np.int64)


@DATASETS.register("ranking/ml-100k")
@dataclass(frozen=True, kw_only=True)
class MovieLens(Ranking):
    """MovieLens 100K: films rated by users, read as "watched" (Harper & Konstan 2015).

    Every rating counts as an interaction, low ones too; the ratings themselves are ``edge_y``.
    """

    files: ClassVar[tuple[File, ...]] = (
        File(
            "ml-100k/u.data",
            f"{_MOVIELENS}/dataset/ml-100k/u.data",
            "06416e597f82b7342361e41163890c81036900f418ad91315590814211dca490",
            1979173,
        ),
    )
    about: ClassVar[About] = About(
        2625, 79926, 0, 0, "", "GroupLens: research only, no redistribution",
        "https://grouplens.org/datasets/movielens/100k/",
    )  # fmt: skip

    def interactions(self) -> tuple[np.ndarray, np.ndarray | None, int, int]:
        """943 users, 1,682 films, 100,000 ratings from 1 to 5."""
        name = self.files[0].name
        table = numbers(read(self.files)[name], name, 4)
        pairs = table[:, :2].T.astype(np.int64) - 1
        return pairs, table[:, 2], 943, 1682


@DATASETS.register("rating/ml-100k")
@dataclass(frozen=True, kw_only=True)
class MovieLensRatings(MovieLens):
    """MovieLens 100K with its ratings from 1 to 5 to be predicted (Harper & Konstan 2015).

    Three fifths of each user's ratings are for training, one for validation, one for testing, as
    in VerFedGNN (Mai & Pang, ICML 2023).
    """

    about: ClassVar[About] = MovieLens.about._replace(edges=60000)
    asks: ClassVar[Literal["ranking", "rating"]] = "rating"

    test: Share = 0.2
    val: Share = 0.2


@DATASETS.register("rating/ml-100k-users")
@dataclass(frozen=True, kw_only=True)
class MovieLensUsers(MovieLensRatings):
    """``rating/ml-100k`` with something private about each user (Harper & Konstan 2015).

    It is the graph's sensitive attribute, of which models see nothing; items have none (−1).

    Attributes:
        attribute: "gender" (0 M, 1 F), "age" (0 under 25, 1 from 25, 2 from 35, 3 from 50 on), or
            "occupation" (21 of them, in the order of the alphabet).
    """

    files: ClassVar[tuple[File, ...]] = (
        *MovieLens.files,
        File(
            "ml-100k/u.user",
            f"{_MOVIELENS}/dataset/ml-100k/u.user",
            "f120e114da2e8cf314fd28f99417c94ae9ddf1cb6db8ce0e4b5995d40e90e62c",
            22628,
        ),
    )
    about: ClassVar[About] = MovieLensRatings.about._replace(sensitive="gender")

    attribute: Literal["gender", "age", "occupation"] = "gender"

    def read(self, rng: Rng) -> Graph:
        """The graph, with the attribute."""
        graph, name = super().read(rng), self.files[1].name
        rows = [line.split("|") for line in read(self.files)[name].decode("ascii").splitlines()]
        if [row[0] for row in rows] != [str(i + 1) for i in range(graph.num_users)]:
            raise DataCorruptError(f"{name}: must hold users 1 to {graph.num_users} in order")
        if self.attribute == "age":
            values = np.searchsorted([25, 35, 50], [int(row[1]) for row in rows], "right")
        elif self.attribute == "gender":
            values = np.array([row[2] == "F" for row in rows], np.int64)
        else:
            values = np.unique([row[3] for row in rows], return_inverse=True)[1]
        whole = np.full(graph.num_nodes, -1, np.int64)
        whole[: len(values)] = values
        return graph.replace(sensitive=torch.from_numpy(whole))


@DATASETS.register("ranking/lastfm")
@dataclass(frozen=True, kw_only=True)
class LastFM(Ranking):
    """Last.fm: artists that users listened to (Cantador, Brusilovsky & Kuflik, HetRec 2011).

    As filtered by the authors of LightGCN. The published division into two parts is not used;
    play counts are ``edge_y``.
    """

    files: ClassVar[tuple[File, ...]] = (
        File(
            "lastfm_hetrec/data1.txt",
            f"{_LASTFM}/data/lastfm/data1.txt",
            "c82af3228cbbda2f55a39244de09ed93292894f1d0d9f1908ebb57e27598fded",
            579727,
        ),
        File(
            "lastfm_hetrec/test1.txt",
            f"{_LASTFM}/data/lastfm/test1.txt",
            "de4417c0e6123284ce59a0934bcf5288ec1ec8774a18a1eef453c9952dfa48f9",
            144867,
        ),
    )
    about: ClassVar[About] = About(
        6369, 41896, 0, 0, "", "not stated; HetRec 2011 is for non-commercial use",
        "https://grouplens.org/datasets/hetrec-2011/",
    )  # fmt: skip

    def interactions(self) -> tuple[np.ndarray, np.ndarray | None, int, int]:
        """1,880 users, 4,489 artists, 52,668 listenings."""
        content = read(self.files)
        table = np.concatenate([numbers(content[f.name], f.name, 3) for f in self.files])
        # Numbers start at 1, and some stand for nobody.
        users, user = np.unique(table[:, 0], return_inverse=True)
        items, item = np.unique(table[:, 1], return_inverse=True)
        return np.stack([user, item]), table[:, 2], len(users), len(items)


@DATASETS.register("ranking/gowalla")
@dataclass(frozen=True, kw_only=True)
class Gowalla(Ranking):
    """Gowalla: places where users checked in (Cho, Myers & Leskovec 2011), split of NGCF (2019).

    The published test part is the test part, so the field ``test`` has no use here. The
    published training part is stored as two files; to stop on, it gives up ``val`` of the
    interactions of one user in ten (2 % of all), which also keeps validation cheap.

    Attributes:
        val_users: Share of the users who are validated on.
    """

    files: ClassVar[tuple[File, ...]] = (
        File(
            "gowalla/train.txt",
            f"{_GOWALLA}/data/gowalla/train.txt",
            "d47e01d060624f389956c0b2f89a1ed8c453ea158631cd2b5320c241f3e1a073",
            4132444,
        ),
        File(
            "gowalla/valid.txt",
            f"{_GOWALLA}/data/gowalla/valid.txt",
            "ddc22c1cd9a7d14fd5cd0c98b1473b614f4323038fef74ae0d28cc9c92a08ba2",
            669008,
        ),
        File(
            "gowalla/test.txt",
            f"{_GOWALLA}/data/gowalla/test.txt",
            "099a2a73924e4b754dc6efd730d764f492321b53c38eb93298850c83acf57be3",
            1372559,
        ),
    )
    about: ClassVar[About] = About(
        70839, None, 0, 0, "", "not stated", "https://snap.stanford.edu/data/loc-gowalla.html"
    )

    test: Annotated[float, Field(ge=0, le=0)] = 0.0
    val: Share = 0.2
    val_users: Annotated[float, Field(ge=0, le=1)] = 0.1

    def read(self, rng: Rng) -> Graph:
        """Read the three files and hold some of the published training part out."""
        content = read(self.files)
        train, valid, test = (adjacency_lines(content[f.name], f.name) for f in self.files)
        known = np.concatenate([train, valid], axis=1)
        drawn = held_out(known[0], self.val, 0.0, rng["holdout"])
        asked = rng["users"].numpy().random(29858) < self.val_users
        part = np.concatenate([np.where(asked[known[0]], drawn, 0), np.full(test.shape[1], 2)])
        pairs = np.concatenate([known, test], axis=1)
        return ranking_graph(pairs, part, 29858, 40981, self.name)
