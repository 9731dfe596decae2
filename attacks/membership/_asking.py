"""What attacks on membership share: how nodes are asked about, and models to compare with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from graphsec.attacks.base import Attack
from graphsec.graph import Graph, Split
from graphsec.models.base import inputs
from graphsec.ops import Adj, Features
from graphsec.predict import Predictor
from graphsec.registry import Range, SpecError
from graphsec.rng import Rng
from graphsec.sampling import Shadow, take
from graphsec.threat import Access, Timing, View

Query = tuple[Tensor, Tensor | Features, Adj]
Signal = Callable[[Tensor, Tensor], Tensor]

_TOGETHER = 512  # subgraphs in one query


@dataclass(frozen=True, kw_only=True)
class MembershipAttack(Attack):
    """Base of attacks on membership: nodes in question, and the query they are put into.

    On the whole graph every node is answered with all its neighbours, members among them (TSTF in
    the literature, "test on full"). On separate subgraphs (TSTS) each is answered alone with its
    surroundings in the attacker's graph, whose degrees are those of the subgraph.

    Attributes:
        query: Whether nodes are asked about in the whole "graph", or each in a "subgraph" of its
            own, which the attacker hands in.
        hops: Size of such a subgraph: all nodes within so many hops and the edges among them; 0
            is the node without any edge. With one more than the victim's layers the answer of a
            GCN is that of the whole graph.
    """

    game: ClassVar[str] = "membership"
    timing: ClassVar[Timing] = "inference"

    query: Literal["graph", "subgraph"] = "graph"
    hops: Annotated[int, Field(ge=0, le=16), Range(0, 3)] = 2

    @property
    def needs(self) -> Access:
        """Scores; own queries and what they are made of where subgraphs are handed in."""
        if self.query == "graph":
            return Access.SCORES
        own = Access.SCORES | Access.QUERY_INPUT | Access.FEATURES
        return own | Access.EDGES if self.hops else own

    def nodes(self, view: View) -> Tensor:
        """Nodes in question; without a question all that the attacker has a label of, or all."""
        if view.question is not None:
            return view.question
        y = view.known.y
        return torch.arange(view.known.num_nodes) if y is None else (y >= 0).nonzero().ravel()

    def labels(self, view: View, nodes: Tensor) -> Tensor:
        """(k,) the nodes' labels.

        Raises:
            ValueError: One of them is not labelled.
        """
        y = view.known.y
        if y is None or bool((y[nodes] < 0).any()):
            raise ValueError(f"attack {self.name!r} needs the label of every node in question")
        return y[nodes]

    def queries(self, graph: Graph, nodes: Tensor) -> list[Query]:
        """(rows asked about, features, adjacency) of the queries on subgraphs."""
        scopes = Shadow(hops=self.hops).scopes(graph.adj, nodes)
        made = []
        for index in torch.split(torch.arange(len(nodes)), _TOGETHER):
            copies, adj = scopes.batch(index)
            assert adj.roots is not None
            # Only what is handed in: the degrees of the whole graph stay behind.
            made.append(
                (adj.roots, take(inputs(graph), copies), Adj(csr=adj.csr, weight=adj.weight))
            )
        return made

    def ask(self, view: View, nodes: Tensor) -> Tensor:
        """(k, classes) the victim's logits; k queries."""
        if self.query == "graph":
            return view.logits(nodes)
        asked = self.queries(view.known, nodes)
        return torch.cat([view.logits(rows, x, adj) for rows, x, adj in asked])


@dataclass(frozen=True, kw_only=True)
class ShadowAttack(MembershipAttack):
    """Base of attacks that compare the victim with models trained the same way.

    Shadow models train on random halves of the nodes in question, in complementary pairs, so that
    one set of models serves all nodes and each is in just as many trainings as it is out of (one
    more or less with an odd number). The victim is never one of them: what a node is compared
    with was fitted without the answer that is judged. Attacks of one seed share the set.

    Attributes:
        shadows: Number of shadow models.
    """

    shadows: Annotated[int, Field(ge=2, le=10_000), Range(4, 256, log=True)] = 64

    @property
    def needs(self) -> Access:
        """Scores, the recipe, and the labelled graph to follow it on."""
        return (
            super().needs | Access.RECIPE | Access.FEATURES | Access.EDGES | Access.TRUE_LABELS
        )  # fmt: skip

    def compare(
        self, view: View, nodes: Tensor, rng: Rng, signal: Signal
    ) -> tuple[Tensor, Tensor, Tensor]:
        """What a signal is at the victim and at the shadow models, asked in the same way.

        Args:
            view: The attacker's view.
            nodes: (q,) nodes in question, followed by others that no shadow model trains on.
            rng: The attack's stream.
            signal: ``(logits (k, classes), labels (k,)) -> (k, …)``.

        Returns:
            (victim (k, …), shadows (s, k, …), inside (s, k)): ``inside`` says which nodes each
            shadow model was trained on.
        """
        graph, y = view.known, self.labels(view, nodes)
        asked = None if self.query == "graph" else self.queries(graph, nodes)

        def answers(model: Predictor) -> Tensor:
            if asked is None:
                return model.logits(graph, nodes)
            return torch.cat([model.answer(x, adj)[rows] for rows, x, adj in asked])

        question = self.nodes(view)
        inside = halves(len(question), self.shadows, rng["half"])
        rest = torch.zeros(graph.num_nodes, dtype=torch.bool)
        assert graph.y is not None
        rest[graph.y >= 0] = True
        rest[question] = False
        values = []
        for i, mine in enumerate(inside):
            # Recipes that stop by validation find it in what is not in question.
            split = Split.of(question[mine], rest.nonzero().ravel(), question[~mine])
            shadow = view.train(graph.replace(split=split), rng["shadow"][i])
            values.append(signal(answers(shadow), y))
        outside = inside.new_zeros(len(inside), len(nodes) - len(question))
        return (
            signal(self.ask(view, nodes), y),
            torch.stack(values),
            torch.cat([inside, outside], dim=1),
        )


def halves(count: int, shadows: int, rng: Rng) -> Tensor:
    """(shadows, count) who is in which half; rows 2i and 2i + 1 are complements.

    Raises:
        SpecError: There is nothing to divide.
    """
    if count < 2:
        raise SpecError(f"shadow models need at least 2 nodes in question, got {count}")
    rows = []
    for pair in range((shadows + 1) // 2):
        order = torch.randperm(count, generator=rng[pair].torch())
        mine = torch.zeros(count, dtype=torch.bool)
        mine[order[: count // 2]] = True
        rows += [mine, ~mine]
    return torch.stack(rows[:shadows])


def logit_confidence(logits: Tensor, y: Tensor) -> Tensor:
    """(k,) log p_y − log(1 − p_y) in float64, from logits, so that it never saturates."""
    z, mine = logits.double(), y.unsqueeze(1)
    others = z.scatter(1, mine, -torch.inf).logsumexp(1)
    return z.gather(1, mine).squeeze(1) - others


def confidence(logits: Tensor, y: Tensor) -> Tensor:
    """(k,) posterior of the true label, float64."""
    return logits.double().softmax(1).gather(1, y.unsqueeze(1)).squeeze(1)
