"""What fair defenses share: whom they count, their extra loss, and which epoch they keep."""

from __future__ import annotations

import copy
import logging
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from graphsec.defenses.base import Defense
from graphsec.graph import Graph
from graphsec.metrics import FairnessError, check_groups
from graphsec.models.base import GNN, Capabilities, Wrapper
from graphsec.ops import Adj, Features
from graphsec.registry import Range
from graphsec.rng import Rng
from graphsec.train import OnEpoch, Recipe, Regulariser, Trace
from graphsec.train import fit as train_model

log = logging.getLogger(__name__)

LOOK_EVERY = 5  # epochs


@dataclass(frozen=True, kw_only=True)
class FairDefense(Defense):
    """Base of defenses that train for fairness, and choose the epoch by it.

    Of the epochs looked at (every fifth, or as ``training.validate_every`` says if that is more),
    those count whose AUC on the validation nodes is within ``floor`` of the highest of any, and
    whose rarer answer is given at least ``rare`` times as often as the rarer label. The one with
    the least ΔSP + ΔEO on the validation nodes is kept, whatever the recipe selects; the last epoch
    where none counts (a warning says so), or a group has no validation node of label 1. Only the
    groups of training and validation nodes are looked at.

    Attributes:
        floor: AUC on validation nodes that fairness may cost.
        rare: A constant answer has no gaps: how rare the rarer answer may become.
    """

    tasks: ClassVar[tuple[str, ...]] = ("classification",)
    needs_whole: ClassVar[bool] = False

    floor: Annotated[float, Field(ge=0, le=1), Range(0.005, 0.05, log=True)] = 0.02
    rare: Annotated[float, Field(ge=0, le=1), Range(0.1, 1)] = 0.25

    def regulariser(self, graph: Graph, group: Tensor, rng: Rng) -> Regulariser | None:
        """What is added to the loss of a step; None adds nothing."""
        return None

    def learner(
        self, model: GNN, graph: Graph, group: Tensor, recipe: Recipe,
        x: Tensor | Features, adj: Adj, rng: Rng,
    ) -> GNN:  # fmt: skip
        """The model that is trained: itself, or one around it with a penalty of its own."""
        return model

    def after_epoch(self, model: GNN) -> None:
        """What is done to the model after each epoch, before it is looked at."""

    def train(
        self, model: GNN, graph: Graph, recipe: Recipe, rng: Rng, x: Tensor | Features, adj: Adj,
        on_epoch: OnEpoch | None = None, whole: Defense | None = None,
    ) -> Trace:  # fmt: skip
        """With the extra loss; then the parameters of the fairest epoch above the floor.

        Raises:
            FairnessError: The groups are not what fairness needs.
            ValueError: Training is in batches or on subgraphs, and the defense needs the graph.
        """
        group = groups_of(graph, self.name)
        for name in ("batch_size", "sampler"):
            found = getattr(recipe.training, name)
            if self.needs_whole and found is not None:
                raise ValueError(
                    f"{self.name} needs the whole graph: training.{name} must be None, got {found}"
                )
        adj = adj.pruned()
        learner = self.learner(model, graph, group, recipe, x, adj, rng["learner"])
        fairest = Fairest(self, model, graph, group, x, adj)
        every = max(recipe.training.validate_every, LOOK_EVERY)

        def look(epoch: int, figures: dict[str, float]) -> bool:
            self.after_epoch(model)
            if (epoch + 1) % every == 0:
                fairest.look(figures)
            return bool(on_epoch and on_epoch(epoch, figures))

        trace = train_model(
            learner, graph, replace(
                recipe.training, select="last", patience=None, validate_every=every
            ), rng, x=x, adj=adj, release=(whole or self).release, on_epoch=look,
            regulariser=self.regulariser(graph, group, rng["regulariser"]),
        )  # fmt: skip
        fairest.restore()
        return trace


class Learner(Wrapper):
    """A model in training, with a penalty on its states; thrown away when that is over."""

    capabilities = Capabilities(tasks=("classification",), sampled=False, per_sample=False)

    def forward(self, x: Tensor | Features, adj: Adj) -> Tensor:
        """Logits of the model."""
        return self.hidden(x, adj)[-1]

    def hidden(self, x: Tensor | Features, adj: Adj) -> list[Tensor]:
        """Outputs of the model's layers, which the penalty looks at."""
        self.states = self.base.hidden(x, adj)
        return self.states

    def penalty(self, x: Tensor | Features, adj: Adj) -> Tensor:
        """The model's own penalty, and the term."""
        own = super().penalty(x, adj)
        added = self.term(x, adj)
        return added if own is None else own + added

    def term(self, x: Tensor | Features, adj: Adj) -> Tensor:
        """What is added, after a forward pass that left ``states``."""
        raise NotImplementedError


class Fairest:
    """Remembers the parameters of those epochs that no other beats in both AUC and gaps."""

    def __init__(
        self, rule: FairDefense, model: GNN, graph: Graph, group: Tensor,
        x: Tensor | Features, adj: Adj,
    ) -> None:  # fmt: skip
        assert graph.split is not None
        assert graph.y is not None
        self._rule, self._model, self._x, self._adj = rule, model, x, adj
        val = graph.split.val
        self._val = val[(graph.y[val] >= 0) & (group[val] >= 0)]
        self._y, self._group = graph.y[self._val], group[self._val]
        self._front: list[tuple[float, float, dict[str, Any]]] = []
        try:
            check_groups(self._y, self._group, "the validation nodes")
            self._possible = len(torch.unique(self._y)) == 2
        except FairnessError:
            self._possible = False

    @torch.no_grad()
    def look(self, figures: dict[str, float]) -> None:
        """Take note of the model as it is; figures get what was found."""
        from sklearn.metrics import roc_auc_score

        if not self._possible:
            return
        self._model.eval()
        logits = self._model.at(self._x, self._adj, self._val)
        said = logits.argmax(1)
        auc = float(roc_auc_score(self._y.cpu(), (logits[:, 1] - logits[:, 0]).cpu()))
        parity, opportunity = gaps(said, self._y, self._group)
        figures |= {"val_auc": auc, "val_delta_sp": parity, "val_delta_eo": opportunity}
        if _rarer(said) < self._rule.rare * _rarer(self._y):
            return
        unfair = parity + opportunity
        if any(better >= auc and fairer <= unfair for better, fairer, _ in self._front):
            return
        self._front = [each for each in self._front if each[0] > auc or each[1] < unfair]
        self._front.append((auc, unfair, copy.deepcopy(self._model.state_dict())))

    def restore(self) -> None:
        """Give the model the parameters that the rule prefers, if any epoch counts."""
        if self._possible and not self._front:
            log.warning(
                "%s: no epoch answers both ways often enough: the last is kept", self._rule.name
            )
        if self._front:
            least = max(auc for auc, _, _ in self._front) - self._rule.floor
            able = [each for each in self._front if each[0] >= least]
            self._model.load_state_dict(min(able, key=lambda each: each[1])[2])
        self._model.eval()


def groups_of(graph: Graph, who: str) -> Tensor:
    """(n,) group of each node, counted from 0; −1 where it is not known.

    Raises:
        FairnessError: The graph has no groups, labels other than 0 and 1, or among the training
            nodes the groups are constant, equal to the label, or one is empty or without label 1.
    """
    where = f"the training nodes of {graph.name!r}"
    if graph.sensitive is None:
        raise FairnessError(
            f"defense {who!r} needs a sensitive attribute, found none in {graph.name!r}"
        )
    if graph.y is None or graph.split is None or len(graph.split.train) == 0:
        raise FairnessError(f"defense {who!r} needs labels and training nodes in {graph.name!r}")
    known = graph.sensitive >= 0
    values, codes = torch.unique(graph.sensitive[known], return_inverse=True)
    group = torch.full_like(graph.sensitive, -1, dtype=torch.int64)
    group[known] = codes
    train = graph.split.train[group[graph.split.train] >= 0]
    here = torch.unique(group[train])
    if len(values) > 1 and len(here) < len(values):
        missing = sorted({*range(len(values))} - {*here.tolist()})[0]
        raise FairnessError(
            f"defense {who!r} needs every group among {where}, found none of group "
            f"{values[missing].item()}"
        )
    check_groups(graph.y[train], group[train], where)
    return group


def gaps(said: Tensor, y: Tensor, group: Tensor) -> tuple[float, float]:
    """ΔSP and ΔEO of answers (k,) to labels and groups (k,), the groups' extremes apart."""
    parity = rates(said.double(), group)
    opportunity = rates(said[y == 1].double(), group[y == 1])
    return float(parity.max() - parity.min()), float(opportunity.max() - opportunity.min())


def rates(values: Tensor, group: Tensor) -> Tensor:
    """(groups,) mean of the values (k,) of each group that is there, differentiable."""
    found, codes = torch.unique(group, return_inverse=True)
    sums = values.new_zeros(len(found)).index_add(0, codes, values)
    return sums / torch.bincount(codes, minlength=len(found))


def _rarer(answers: Tensor) -> float:
    share = float(answers.double().mean())
    return min(share, 1 - share)
