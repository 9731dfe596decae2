"""The contract of defenses."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, get_args
from unittest import SkipTest

import torch

from graphsec.cell import Cell, score
from graphsec.defenses import Defense
from graphsec.defenses import build as build_defense
from graphsec.graph import Graph
from graphsec.outcome import Outcome
from graphsec.predict import How, Predictor
from graphsec.rng import Rng
from graphsec.testing.common import (
    TRAINING,
    Contract,
    any_dataset,
    content,
    disturb,
    global_state,
    same,
    some_flips,
    x_of,
)
from graphsec.train import Recipe


@cache
def _fitted(defense: Defense, model: str, training: str, graph: Graph, seed: int) -> Predictor:
    """Trained once for all tests that only ask it."""
    recipe = Recipe.of(json.loads(model), json.loads(training))
    return defense.fit(graph, recipe, Rng(seed)["fit"])


class DefenseContract(Contract):
    """What every defense must do.

    Attributes:
        model: Model behind the defense.
        training: Its training.
        utility_drop: Most accuracy (recall, of rankings) it may cost on the clean tiny graphs, or
            most RMSE it may add.
        saves: Whether its predictors can be saved.
    """

    model: ClassVar[Any] = {"name": "gcn", "hidden": 16}
    training: ClassVar[Mapping[str, Any]] = TRAINING
    utility_drop: ClassVar[float] = 0.15
    saves: ClassVar[bool] = True

    @property
    def component(self) -> Any:
        """The defense."""
        return build_defense(self.spec)

    def _cell(self) -> Cell:
        return Cell(dataset=any_dataset(), defense=self.component.spec())

    def _fit(self, graph: Graph, defense: Any = None) -> Predictor:
        made = self.component if defense is None else build_defense(defense)
        fitted: Predictor = made.fit(graph, Recipe.of(self.model, self.training), Rng(0)["fit"])
        return fitted

    def _fitted(self, graph: Graph, defense: Any = None, seed: int = 0) -> Predictor:
        made = self.component if defense is None else build_defense(defense)
        return _fitted(made, json.dumps(self.model), json.dumps(dict(self.training)), graph, seed)

    def test_keeps_utility(self, graph: Graph) -> None:
        """Test accuracy, RMSE or recall, median of three seeds, is near the undefended model's."""
        name = {"rating": "rmse", "ranking": "recall_at_20"}.get(graph.task, "accuracy")
        sign = -1 if name == "rmse" else 1

        def utility(defense: Any) -> float:
            fitted = (self._fitted(graph, defense, seed) for seed in range(3))
            scores = (score(Outcome(), graph, one) for one in fitted)
            return statistics.median(sign * float(s[name]) for s in scores)

        assert utility(None) >= utility("none") - self.utility_drop

    def test_same_seed_same_predictor(self, graph: Graph) -> None:
        """Whatever the global generators hold, which are left as they were."""
        disturb()
        first = self._fit(graph)
        disturb()
        before = global_state()
        again = self._fit(graph)
        assert same(before, global_state())
        assert torch.equal(first.logits(graph), again.logits(graph))

    def test_leaves_the_graph_alone(self, graph: Graph) -> None:
        """Training and answering do not change the graph."""
        before = content(graph)
        self._fit(graph).logits(graph)
        assert content(graph) == before

    def test_save_and_load(self, graph: Graph, tmp_path: Path) -> None:
        """A loaded predictor gives the same logits, on attacked graphs too."""
        made = self._fitted(graph)
        if self.component.draws:  # what it drew is secret, and a file would give it away
            try:
                made.save(tmp_path / "model.pt")
            except TypeError:
                return
            raise AssertionError("a predictor whose defense draws a secret was saved")
        if not self.saves:
            raise SkipTest("says that its predictors can't be saved")
        loaded = Predictor.load(made.save(tmp_path / "model.pt"))
        attacked = graph.flip(some_flips(graph))
        for each in (graph, attacked):
            assert torch.equal(loaded.logits(each), made.logits(each))

    def test_sanitises_attacked_graphs(self, graph: Graph) -> None:
        """Evasion meets the defense's preprocessing of the attacked graph, not of the clean one."""
        made, flips = self._fitted(graph), some_flips(graph, 10)
        defense = made.origin.defense if made.origin else self.component
        made.logits(graph)  # an answer about the clean graph must not be reused
        attacked = graph.flip(flips)
        x, adj = defense.sanitise(x_of(attacked), attacked.adj)
        with torch.no_grad():
            wanted = made.model(x, adj)
            assert not torch.equal(wanted, made.forward(x_of(graph), graph.adj))
        torch.testing.assert_close(made.logits(attacked), defense.present(wanted))

    def test_candidate_pairs_are_flips(self, graph: Graph) -> None:
        """Through the defense, candidate pairs at weight 1 give what the flipped graph gives."""
        made, flips = self._fitted(graph), some_flips(graph)
        adj = graph.adj.with_block(flips, torch.ones(flips.shape[1]), symmetric=not graph.directed)
        with torch.no_grad():
            block = made.forward(x_of(graph), adj)
            flipped = made.forward(x_of(graph), graph.flip(flips).adj)
        torch.testing.assert_close(block, flipped, rtol=1e-4, atol=1e-4)

    def test_adaptive_attackers_can_differentiate(self, graph: Graph) -> None:
        """Every variant answers, with finite gradients in candidate pairs."""
        made, flips = self._fitted(graph), some_flips(graph)
        for how in get_args(How):
            weight = torch.full((flips.shape[1],), 0.5, requires_grad=True)
            adj = graph.adj.with_block(flips, weight, symmetric=not graph.directed)
            out = made.relaxed(how).forward(x_of(graph), adj)
            if out.requires_grad:
                (gradient,) = torch.autograd.grad(out.square().sum(), weight, allow_unused=True)
                assert gradient is None or torch.isfinite(gradient).all()
            assert torch.isfinite(out).all()

    def test_pairs_not_allowed_have_no_effect(self, graph: Graph) -> None:
        """Adding pairs that ``allows`` rules out changes no answer."""
        made = self._fitted(graph)
        pairs = some_flips(graph, 20)
        pairs = pairs[:, ~graph.has_edges(pairs)]
        allowed = made.allows(graph, pairs)
        assert allowed.shape == (pairs.shape[1],)
        assert allowed.dtype == torch.bool
        if not allowed.all():
            attacked = graph.flip(pairs[:, ~allowed])
            torch.testing.assert_close(made.logits(attacked), made.logits(graph))

    def test_recognises_itself(self, graph: Graph) -> None:
        """An owner's verdict on the model itself accuses it, and says the same when asked again."""
        if not self.component.verifies:
            raise SkipTest("verifies nothing")
        made = self._fitted(graph)
        verify = made.verifier(graph, Rng(0)["verify"])
        disturb()
        assert verify(made).accuses()
        assert verify(made) == made.verifier(graph, Rng(0)["verify"])(made)
        assert 0 < verify(self._fitted(graph, "none", seed=1)).p_value <= 1

    def test_composes(self, graph: Graph) -> None:
        """Beside ``none`` it is itself."""
        composed = self._fit(graph, [self.component, "none"])
        assert torch.equal(composed.logits(graph), self._fitted(graph).logits(graph))
