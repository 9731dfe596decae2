"""NIFTY: answers that stay when the sensitive attribute is flipped, or the input perturbed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from graphsec.defenses.fair._training import FairDefense, Learner
from graphsec.graph import Graph
from graphsec.metrics import FairnessError
from graphsec.models.base import GNN
from graphsec.ops import Adj, Features
from graphsec.registry import DEFENSES, Range
from graphsec.rng import Rng
from graphsec.train import Recipe, loss_of


@DEFENSES.register("nifty")
@dataclass(frozen=True, kw_only=True)
class Nifty(FairDefense):
    """Siamese training on two views of the graph: a perturbed one, and a counterfactual one.

    The first has features (columns) and edges dropped; in the second each node has another group,
    and edges are dropped. The loss is (1 − c) times the mean cross-entropy of both views plus c
    times how much the last hidden states of one, through a predictor that is thrown away, differ
    from those of the other (1 − cosine, each way, the other held fixed). After each epoch the
    weight matrices but the last are brought to a spectral norm of at most ``spectral``.

    The counterfactual view changes features, so the group must be among them: data sets have
    ``group_in_features``. With ``flip = false`` the second view is another perturbed one, and what
    is learnt is stability alone. Sparse features are made dense in training.

    Source: Agarwal et al., Towards a Unified Framework for Fair and Stable Graph Representation
    Learning, UAI 2021 (from notes: sim_coeff .5 to .6; drop rates from memory). Ours: norms are
    bounded by projection, and the epoch is chosen by the rule of all fair defenses.

    Attributes:
        similarity: c, "sim_coeff".
        drop_features: Share of columns dropped in the first view.
        drop_edges: Share of edges dropped in each view.
        spectral: Largest spectral norm; None bounds none.
        flip: Whether the second view is counterfactual.
    """

    needs_whole: ClassVar[bool] = True

    similarity: Annotated[float, Field(ge=0, lt=1), Range(0.3, 0.9)] = 0.6
    drop_features: Annotated[float, Field(ge=0, lt=1), Range(0, 0.3)] = 0.1
    drop_edges: Annotated[float, Field(ge=0, lt=1), Range(0, 0.1)] = 0.001
    spectral: Annotated[float, Field(gt=0), Range(0.5, 4, log=True)] | None = 1.0
    flip: bool = True

    def learner(
        self, model: GNN, graph: Graph, group: Tensor, recipe: Recipe,
        x: Tensor | Features, adj: Adj, rng: Rng,
    ) -> GNN:  # fmt: skip
        """The model with its views.

        Raises:
            FairnessError: The counterfactual view is asked for, and the group is in no feature.
        """
        columns = group_columns(x, group) if self.flip else {}
        if self.flip and not columns:
            raise FairnessError(
                f"defense 'nifty' flips the sensitive attribute among the features, and found it "
                f"in none of the {graph.num_features} of {graph.name!r}: load it with "
                "group_in_features = true, or set flip = false"
            )
        with rng["predictor"].scope(), torch.no_grad():
            states = model.eval().hidden(x, adj)
            width = states[-2 if len(states) > 1 else -1].shape[1]
            predictor = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width))
        return Siamese(self, model, graph, columns, predictor.to(graph.indptr.device))

    def after_epoch(self, model: GNN) -> None:
        """Bring the weight matrices but the last within the norm."""
        if self.spectral is None:
            return
        with torch.no_grad():
            for weight in [p for p in model.parameters() if p.dim() == 2][:-1]:
                norm = torch.linalg.matrix_norm(weight, ord=2)
                weight.div_((norm / self.spectral).clamp(min=1))


class Siamese(Learner):
    """A model in training on two views; asked about the graph, it answers about the graph."""

    def __init__(
        self, defense: Nifty, base: GNN, graph: Graph, columns: dict[int, Tensor],
        predictor: nn.Module,
    ) -> None:  # fmt: skip
        super().__init__(base, base.layers)
        assert graph.split is not None
        assert graph.y is not None
        self._defense, self._columns, self.predictor = defense, columns, predictor
        self._train, self._y = graph.split.train, graph.y[graph.split.train]

    def groups(self, weight_decay: float, decay: str) -> list[dict[str, object]]:
        """The predictor beside the model's groups."""
        mine = {"params": list(self.predictor.parameters()), "weight_decay": weight_decay}
        return [*self.base.groups(weight_decay, decay), mine]

    def hidden(self, x: Tensor | Features, adj: Adj) -> list[Tensor]:
        """In training of the perturbed view."""
        if not self.training:
            return super().hidden(x, adj)
        return super().hidden(self._masked(x), self._thinned(adj))

    def term(self, x: Tensor | Features, adj: Adj) -> Tensor:
        """The other view's cross-entropy and 2 c / (1 − c) times the distance of the views.

        With the first view's cross-entropy, which the loss has, that is 2 / (1 − c) times NIFTY's
        loss; Adam takes no notice of the factor.
        """
        other = flipped(x, self._columns) if self._columns else self._masked(x)
        states = self.base.hidden(other, self._thinned(adj))
        last = -2 if len(states) > 1 else -1
        h, g = self.states[last], states[last]
        apart = (self._apart(h, g) + self._apart(g, h)) / 2
        c = self._defense.similarity
        loss = loss_of("classification", states[-1][self._train], self._y)
        return loss + 2 * c / (1 - c) * apart

    def _apart(self, h: Tensor, g: Tensor) -> Tensor:
        return 1 - F.cosine_similarity(self.predictor(h), g.detach()).mean()

    def _masked(self, x: Tensor | Features) -> Tensor:
        dense = x.to_dense()
        kept = torch.rand(dense.shape[1]) >= self._defense.drop_features  # CPU: same everywhere
        return dense * kept.to(dense)

    def _thinned(self, adj: Adj) -> Adj:
        rate = self._defense.drop_edges
        return adj.sample(0.0, rate, Rng(int(torch.randint(2**62, ())))) if rate else adj


def group_columns(x: Tensor | Features, group: Tensor) -> dict[int, Tensor]:
    """The columns that say the group, and what each says of each group (groups,)."""
    dense = x.to_dense()[group >= 0]
    known = group[group >= 0]
    members = [dense[known == value] for value in range(int(known.max()) + 1)]
    means = torch.stack([rows[0] for rows in members])
    alike = torch.stack([(rows == rows[0]).all(0) for rows in members]).all(0)
    found = {}
    for column in alike.nonzero().ravel().tolist():
        if len(torch.unique(means[:, column])) == len(members):
            found[column] = means[:, column]
    return found


def flipped(x: Tensor | Features, columns: dict[int, Tensor]) -> Tensor:
    """Features in which each node says another group, the next but a random number of them."""
    made = x.to_dense().clone()
    if not columns:
        return made
    groups = len(next(iter(columns.values())))
    shift = 1 + int(torch.randint(groups - 1, ()))
    for column, values in columns.items():
        says = (made[:, column].unsqueeze(1) - values).abs().argmin(1)
        made[:, column] = values[(says + shift) % groups]
    return made
