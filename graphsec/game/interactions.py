"""Which items of a party did users take?"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
import scipy.sparse as sp
import torch
from pydantic import Field
from torch import Tensor

from graphsec.federated import owners
from graphsec.game.base import Game, Secret
from graphsec.graph import Graph, Holdout
from graphsec.registry import GAMES, SpecError
from graphsec.rng import Rng


@GAMES.register("interactions")
@dataclass(frozen=True, kw_only=True)
class Interactions(Game):
    """Which pairs of a user and an item are trained on?

    Questions are matched user by user: as many pairs that are as pairs that are not, in random
    order. Pairs that are held out count as taken: they are never asked about as if they were not,
    except where they are the question ("heldout").

    Attributes:
        others: The pairs that are not: items that the user did not take, drawn by how often others
            took them ("popular": popularity then says little) or evenly ("uniform"); all of them
            ("all", beside all that the user took); or the user's test pairs ("heldout":
            membership of an interaction; attackers who see edges see the pairs asked about, with
            ratings).
        each: Most pairs of a kind for each user.
        reveal: Share of the users whose items at the victim are all open, as examples to
            attackers who know some (PARTIAL_EDGES); they are not asked about.
        victim: The party whose items are asked about; None asks about all items.
        parties: Number of parties among which items are drawn as federations draw them. Because
            parties of 10 are parts of those of 2 and 5, a question about party 0 of 10 is one
            about party 0 of those too.
        partition: Seed of who holds which items, as the federation has it.
    """

    others: Literal["popular", "uniform", "all", "heldout"] = "popular"
    each: Annotated[int, Field(ge=1)] = 10
    reveal: Annotated[float, Field(ge=0, lt=1)] = 0.0
    victim: Annotated[int, Field(ge=0)] | None = 0
    parties: Annotated[int, Field(ge=1)] = 5
    partition: Annotated[int, Field(ge=0)] = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.victim is not None and self.victim >= self.parties:
            raise SpecError(
                f"game {self.name!r}: victim must be < parties = {self.parties}, got {self.victim}"
            )

    def items(self, graph: Graph) -> np.ndarray:
        """Nodes of the items that are asked about, in order."""
        count = graph.num_nodes - graph.num_users
        if self.victim is None:
            return np.arange(count) + graph.num_users
        owner = owners(count, self.parties, Rng(self.partition)["items"]).numpy()
        return np.flatnonzero(owner == self.victim) + graph.num_users

    def prepare(self, graph: Graph, rng: Rng) -> tuple[Graph, Secret]:
        """The whole graph for the trainer; attackers see it without its edges.

        Raises:
            ValueError: The graph has no users and items, or nothing is left to ask about.
        """
        if graph.task not in ("rating", "ranking"):
            raise ValueError(
                f"game {self.name!r} needs users and items, found task {graph.task!r} in "
                f"{graph.name!r}"
            )
        generator, users, items = rng.numpy(), graph.num_users, self.items(graph)
        order = rng["reveal"].numpy().permutation(users)
        shown = np.sort(order[: round(self.reveal * users)])
        asked = np.sort(order[len(shown) :])
        taken = graph.to_scipy()[:users][:, items].astype(bool)
        parts = list(self._asked(graph, asked, items, taken, generator))
        if not parts:
            raise ValueError(f"game {self.name!r}: no user of {graph.name!r} can be asked about")
        question = torch.from_numpy(np.concatenate([pairs for pairs, _ in parts], 1))
        answer = torch.from_numpy(np.concatenate([truth for _, truth in parts]))
        examples = None
        if len(shown):
            pairs = np.stack([np.repeat(shown, len(items)), np.tile(items, len(shown))])
            truth = taken[shown].toarray().ravel().astype(np.int64)
            examples = torch.from_numpy(pairs), torch.from_numpy(truth)
        public = _candidates(graph, question) if self.others == "heldout" else None
        return graph, Secret("interactions", question, answer, examples, public, self)

    def _asked(
        self, graph: Graph, users: np.ndarray, items: np.ndarray, taken: sp.csr_matrix,
        generator: np.random.Generator,
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:  # fmt: skip
        """(pairs, answers) of each user of whom both kinds can be asked about."""
        held = _held_out(graph)[:, items]
        popular = np.asarray(taken.sum(0), np.float64).ravel()
        tested = _pairs(graph, "test")[:, items]
        for user in users:
            mine = taken[user].indices
            if self.others == "heldout":
                rest, weight = tested[user].indices, None
            else:
                free = np.ones(len(items), bool)
                free[mine] = free[held[user].indices] = False
                if self.others == "popular":
                    free &= popular > 0
                rest = np.flatnonzero(free)
                weight = None
                if self.others == "popular":  # so that both kinds are of like popularity
                    chance = np.minimum(popular[rest] * len(mine) / taken.nnz, 0.95)
                    weight = chance / (1 - chance)
            count = min(self.each, len(mine), len(rest))
            if not count:
                continue
            if self.others != "all":
                mine = generator.choice(mine, count, replace=False)
                odds = None if weight is None else weight / weight.sum()
                rest = generator.choice(rest, count, replace=False, p=odds)
            columns, truth = np.r_[mine, rest], np.repeat([1, 0], [len(mine), len(rest)])
            mixed = generator.permutation(len(columns))
            yield np.stack([np.full(len(mixed), user), items[columns[mixed]]]), truth[mixed]


def _pairs(graph: Graph, part: str) -> sp.csr_matrix:
    """(users, nodes) which held-out pairs there are."""
    shape = (graph.num_users, graph.num_nodes)
    if graph.holdout is None:
        return sp.csr_matrix(shape, dtype=bool)
    user, item = getattr(graph.holdout, part).numpy()
    return sp.csr_matrix((np.ones(len(user), bool), (user, item)), shape=shape)


def _held_out(graph: Graph) -> sp.csr_matrix:
    return (_pairs(graph, "val") + _pairs(graph, "test")).tocsr()


def _candidates(graph: Graph, pairs: Tensor) -> Graph:
    """The pairs asked about and no others, with what users thought of them if that is known."""
    holdout = graph.holdout
    if graph.edge_y is None or holdout is None or holdout.test_y is None:
        return only(graph, pairs, None)
    n = graph.num_nodes
    user, item = torch.cat([graph.edge_index, holdout.test], 1).numpy()
    value = torch.cat([graph.edge_y, holdout.test_y]).numpy()
    ratings = sp.csr_matrix((value, (user, item)), shape=(n, n))
    found = np.asarray(ratings[pairs[0].numpy().copy(), pairs[1].numpy().copy()]).ravel()
    return only(graph, pairs, torch.from_numpy(found))


def only(graph: Graph, pairs: Tensor, ratings: Tensor | None) -> Graph:
    """The users and items of a graph with other pairs (2, k), and their ratings (k,) if given."""
    n, none = graph.num_nodes, torch.zeros((2, 0), dtype=torch.int64)
    made = Graph.from_edges(
        pairs, n, node_type=graph.node_type, task=graph.task, name=graph.name,
        holdout=Holdout.of(none, none) if graph.task == "ranking" else None,
    )  # fmt: skip
    if ratings is None:
        return made
    row, col = made.edge_index
    key, given = torch.minimum(row, col) * n + torch.maximum(row, col), pairs[0] * n + pairs[1]
    order = torch.argsort(given)
    place = order[torch.searchsorted(given[order], key)]
    return made.replace(edge_y=ratings[place].float())
