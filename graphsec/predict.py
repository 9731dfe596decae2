"""Predictor: a trained thing that answers."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from graphsec.graph import Graph
from graphsec.models.base import GNN, Capabilities, Sizes, inputs
from graphsec.ops import Adj, Features
from graphsec.ranking import top_items
from graphsec.readout import pooled
from graphsec.registry import DEFENSES
from graphsec.sampling import Shadow
from graphsec.train import Recipe, Release, Trace

How = Literal["exact", "relaxed", "bypass"]


class Sanitiser(Protocol):
    """Preprocessing that a defense runs before the model, differentiable unless it says not."""

    def __call__(
        self, x: Tensor | Features, adj: Adj, how: How = "exact"
    ) -> tuple[Tensor | Features, Adj]:
        """Sanitised features and adjacency."""
        ...


@dataclass(frozen=True, kw_only=True)
class PrivacyStatement:
    """What is promised about whom; never made where the proof has a gap.

    Attributes:
        epsilon: ε of (ε, δ)-differential privacy.
        delta: δ.
        relation: Which graphs are neighbours ("add or remove a node and its edges", …).
        family: Graphs for which it holds ("out-degree at most 5, publicly known", …).
        release: What may be shown ("weights", "weights and answers", …).
        argument: Where the proof stands.
    """

    epsilon: float
    delta: float
    relation: str
    family: str
    release: str
    argument: str


@dataclass(frozen=True)
class Origin:
    """How a predictor came to be: enough to train another one the same way."""

    recipe: Recipe
    defense: Any

    def spec(self) -> dict[str, Any]:
        """Plain form, for saving."""
        return {**self.recipe.spec(), "defense": self.defense.spec()}


def _as_is(logits: Tensor) -> Tensor:
    return logits


def _nothing(x: Tensor | Features, adj: Adj, how: How = "exact") -> tuple[Tensor | Features, Adj]:
    return x, adj


class Predictor:
    """A trained model behind its defense.

    Args:
        model: The module, in evaluation mode.
        sanitise: The defense's preprocessing; rerun on every graph, attacked ones too.
        present: What the defense does to the logits (k, classes) of answers, and to them alone:
            ``forward``, ``hidden`` and the model are past it.
        origin: Recipe and defense it came from, None for a foreign model.
        how: How preprocessing is run: exactly, relaxed to be differentiable, or bypassed.
        privacy: What is promised, if anything.
        trace: What training showed.
        allowed: Which node pairs could be edges after sanitising, for adaptive attackers.
    """

    def __init__(
        self,
        model: GNN,
        *,
        sanitise: Sanitiser = _nothing,
        present: Callable[[Tensor], Tensor] = _as_is,
        origin: Origin | None = None,
        how: How = "exact",
        privacy: PrivacyStatement | None = None,
        trace: Trace | None = None,
        allowed: Callable[[Graph, Tensor], Tensor] | None = None,
    ) -> None:
        self.model = model.eval()
        self.sanitise = sanitise
        self.present = present
        self.origin = origin
        self.how: How = how
        self.privacy = privacy
        self.trace = trace or Trace()
        self._allowed = allowed
        self._logits: WeakKeyDictionary[Graph, Tensor] = WeakKeyDictionary()

    # -- answers ------------------------------------------------------------------------------

    def forward(self, x: Tensor | Features, adj: Adj, nodes: Tensor | None = None) -> Tensor:
        """Logits (n, classes), differentiable, with the defense's preprocessing inside.

        Of the model on the whole graph: where it was trained on subgraphs (``sampler``) this is
        what an attacker differentiates, and ``answer`` is what the predictor says.

        Args:
            x: Features.
            adj: Adjacency, with candidate pairs or without.
            nodes: (k,) whose logits are wanted, (k, classes); default all.
        """
        x, adj = self.sanitise(x, adj, self.how)
        out: Tensor = self.model(x, adj) if nodes is None else self.model.at(x, adj, nodes)
        return out

    @property
    def sampler(self) -> Shadow | None:
        """What draws the subgraph on which a node is answered; None: the whole graph."""
        return None if self.origin is None else self.origin.recipe.training.sampler

    @torch.no_grad()
    def answer(self, x: Tensor | Features, adj: Adj) -> Tensor:
        """Logits (n, classes) as the predictor shows them, on each node's subgraph if it has one.

        The subgraphs are drawn from the sanitised adjacency that is asked about.
        """
        if self.sampler is None:
            return self.present(self.forward(x, adj))
        x, adj = self.sanitise(x, adj, self.how)
        scopes = self.sampler.scopes(adj, torch.arange(adj.num_nodes))
        return self.present(self.sampler.answers(self.model, x, scopes))

    def hidden(self, x: Tensor | Features, adj: Adj) -> list[Tensor]:
        """Outputs of all layers on the whole graph, the logits last."""
        x, adj = self.sanitise(x, adj, self.how)
        return self.model.hidden(x, adj)

    @torch.no_grad()
    def logits(self, graph: Graph, nodes: Tensor | None = None) -> Tensor:
        """Logits of ``nodes`` (default all) in ``graph``, which is sanitised first.

        A ranking model gives embeddings; of a set of graphs every node has its graph's answer.
        """
        known = self._logits.get(graph)
        alone = self.model.capabilities.alone and graph.task != "graph"
        if known is None and nodes is not None and alone:
            return self.present(self.forward(inputs(graph), graph.adj, nodes))
        if known is None:
            known = self.read(graph, self.answer(inputs(graph), graph.adj))
            self._logits[graph] = known
        return known if nodes is None else known[nodes]

    def read(self, graph: Graph, logits: Tensor) -> Tensor:
        """(n, classes) the logits of nodes; in a set of graphs each node has its graph's."""
        if graph.task != "graph":
            return logits
        assert graph.graph_id is not None
        how = "mean" if self.origin is None else self.origin.recipe.training.readout
        return pooled(logits, graph.graph_id, how)[graph.graph_id]

    def predict_proba(self, graph: Graph, nodes: Tensor | None = None) -> Tensor:
        """Class probabilities (k, classes)."""
        self._refuse_ranking()
        return self.logits(graph, nodes).softmax(1)

    def predict(self, graph: Graph, nodes: Tensor | None = None) -> Tensor:
        """Predicted classes (k,), or values for regression."""
        self._refuse_ranking()
        logits = self.logits(graph, nodes)
        return logits.squeeze(-1) if graph.task == "regression" else logits.argmax(1)

    def _refuse_ranking(self) -> None:
        if "classification" not in self.model.capabilities.tasks:
            raise TypeError(f"{type(self.model).__name__} predicts no classes: it ranks items")

    def rate(self, graph: Graph, pairs: Tensor) -> Tensor:
        """(k,) what users would think of items (2, k), for rating models.

        Raises:
            TypeError: This model does not rate.
        """
        if "rating" not in self.model.capabilities.tasks:
            raise TypeError(f"{type(self.model).__name__} does not rate items")
        with torch.no_grad():
            return self.model.decode(self.logits(graph), pairs)

    def rank(self, graph: Graph, users: Tensor, k: int, exclude: Tensor | None = None) -> Tensor:
        """Top-k items of each user, for ranking models.

        Users are taken in blocks: users × items are never held at once.

        Args:
            graph: Ranking graph; it is sanitised first.
            users: (u,) user nodes.
            k: Items a user.
            exclude: (2, m) pairs of user and item that are not ranked; default the edges.

        Returns:
            (u, k) item nodes, best first; −1 where a user's items run out.

        Raises:
            TypeError: This model does not rank.
            ValueError: Not a ranking graph, or a user or k out of range.
        """
        if "ranking" not in self.model.capabilities.tasks:
            raise TypeError(f"{type(self.model).__name__} does not rank items")
        if graph.task != "ranking":
            raise ValueError(f"task of {graph.name!r} must be 'ranking', found {graph.task!r}")
        if len(users) and not 0 <= int(users.min()) <= int(users.max()) < graph.num_users:
            raise ValueError(
                f"users must lie in 0…{graph.num_users - 1}, found {users.min()}…{users.max()}"
            )
        if k < 1:
            raise ValueError(f"k must be ≥ 1, got {k}")
        excluded = graph.pairs if exclude is None else exclude
        with torch.no_grad():
            return top_items(self.logits(graph), users, graph.num_users, k, excluded)

    def certify(self, graph: Graph, nodes: Tensor, rng: Any) -> Tensor:
        """Certified radii of nodes (k,), where the defense certifies: what they count, it says.

        Raises:
            TypeError: This defense certifies nothing.
        """
        if self.origin is None:
            raise TypeError("a wrapped model certifies nothing")
        radii: Tensor = self.origin.defense.certify(self, graph, nodes, rng)
        return radii

    def verifier(self, graph: Graph, rng: Any) -> Any:
        """What gives a ``Verdict`` on any suspect predictor, where the defense verifies.

        Args:
            graph: The graph that this predictor was trained on.
            rng: Stream of what the owner trains to compare with.

        Raises:
            TypeError: The defense verifies nothing.
        """
        if self.origin is None:
            raise TypeError("a wrapped model verifies nothing")
        return self.origin.defense.verifier(self, graph, rng)

    @property
    def filters(self) -> bool:
        """Whether sanitising can refuse pairs, so that ``allows`` is worth asking."""
        return self._allowed is not None

    def allows(self, graph: Graph, pairs: Tensor) -> Tensor:
        """(k,) whether each pair (2, k) could be an edge that sanitising keeps."""
        if self._allowed is None:
            return torch.ones(pairs.shape[1], dtype=torch.bool)
        return self._allowed(graph, pairs)

    # -- variants -----------------------------------------------------------------------------

    def relaxed(self, how: How = "exact") -> Predictor:
        """The same predictor with its preprocessing run another way, for adaptive attackers.

        It carries no trace: what training released is another access than the weights. Its answers
        are the model's own: who has the weights needs no presentation of them. Its origin is what
        attackers know of it, without keys.
        """
        known = self.origin and Origin(self.origin.recipe, self.origin.defense.public())
        other = Predictor(
            self.model, sanitise=self.sanitise, origin=known, how=how,
            privacy=self.privacy, allowed=self._allowed,
        )  # fmt: skip
        if how == "bypass":
            other._allowed = None
        return other

    def public(self) -> Predictor:
        """``relaxed("exact")`` without what its defense drew in secret at this training."""
        if self.origin is None or not self.origin.defense.draws:
            return self.relaxed("exact")
        plain = DEFENSES.build(self.origin.defense.spec())
        made: Predictor = plain.around(self.model.public(), self.origin.recipe)
        return made.relaxed("exact")

    def at(self, release: Release) -> Predictor:
        """``relaxed`` as this one is, with the parameters that a gradient was released at.

        Raises:
            ValueError: The release carries no such parameters, or of other shapes.
        """
        moment = self.relaxed(self.how)
        moment.model = copy.deepcopy(self.model)
        with torch.no_grad():
            for name, parameter in moment.model.named_parameters():
                sent = release.tensors.get(f"parameter:{name}")
                shape = None if sent is None else tuple(sent.shape)
                if sent is None or sent.shape != parameter.shape:
                    raise ValueError(
                        f"release {release.round}: parameter {name!r} must have shape "
                        f"{tuple(parameter.shape)}, found {shape or 'none'}"
                    )
                parameter.copy_(sent)
        return moment

    @staticmethod
    def wrap(
        module: nn.Module,
        forward: Callable[[nn.Module, Tensor, Tensor, Tensor], Tensor],
        *,
        layers: int = 2,
    ) -> Predictor:
        """A predictor around your own model.

        Args:
            module: Any trained torch module.
            forward: ``(module, x, edge_index, edge_weight) -> logits``; x is dense (n, d),
                edge_index (2, E) source and target without self-loops, edge_weight (E,) with
                0 for absent edges.
            layers: Hops that the model looks.
        """
        return Predictor(_Wrapped(module, forward, layers))

    # -- files --------------------------------------------------------------------------------

    def save(self, path: str | Path) -> Path:
        """Write weights and origin to one file; returns its path.

        Raises:
            TypeError: A wrapped model has no origin to build it from again, or the defense drew
                something secret that must not lie beside the weights.
        """
        if self.origin is None:
            raise TypeError("a wrapped model can't be saved: save the module itself")
        if self.origin.defense.draws:
            raise TypeError(
                f"a predictor behind {self.origin.defense.name!r} can't be saved: the noise of its "
                "graph is secret; save model.state_dict()"
            )
        sizes = getattr(self, "sizes", None)
        if sizes is None:
            raise TypeError("this predictor does not know the sizes it was built for")
        header = json.dumps({"origin": self.origin.spec(), "sizes": list(sizes), "version": 1})
        target = Path(path)
        torch.save({"header": header, "state": self.model.state_dict()}, target)
        return target

    sizes: tuple[int, ...] | None = None

    @staticmethod
    def load(path: str | Path) -> Predictor:
        """A predictor from ``save``; only tensors and text are read, never code."""
        content = torch.load(Path(path), weights_only=True)
        header = json.loads(content["header"])
        origin = header["origin"]
        recipe = Recipe.of(origin["model"], origin["training"])
        defense = DEFENSES.build(origin["defense"])
        predictor: Predictor = defense.predictor(recipe, Sizes(*header["sizes"]))
        predictor.model.load_state_dict(content["state"])
        predictor.model.eval()
        return predictor


class _Wrapped(GNN):
    """A foreign module behind the interface."""

    capabilities = Capabilities(sampled=False)

    def __init__(self, module: nn.Module, forward: Callable[..., Tensor], layers: int) -> None:
        super().__init__(layers)
        self.module = module
        self._call = forward

    def forward(self, x: Tensor | Features, adj: Adj) -> Tensor:
        dense = x if isinstance(x, Tensor) and x.layout == torch.strided else x.to_dense()
        merged = adj.merged()
        row, col = merged.csr.coo
        assert merged.weight is not None
        return self._call(self.module, dense, torch.stack([col, row]), merged.weight)

    def hidden(self, x: Tensor | Features, adj: Adj) -> list[Tensor]:
        return [self.forward(x, adj)]
