"""The contract suites catch what they are for."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from graphsec.attacks import Attack
from graphsec.defenses import Defense
from graphsec.outcome import Perturbation
from graphsec.predict import How
from graphsec.rng import Rng
from graphsec.testing import AttackContract, DefenseContract, tiny_graphs
from graphsec.threat import Access, BudgetExceeded, View

GRAPH = tiny_graphs()["blocks"]


@dataclass(frozen=True, kw_only=True)
class Sloppy(Attack):
    """Does one thing wrong at a time; cites nothing."""

    name: ClassVar[str] = "sloppy"
    fault: str = ""

    @property
    def needs(self) -> Access:
        more = Access.FEATURES if self.fault == "needs" else Access.NONE
        return Access.EDGES | Access.TRUE_LABELS | more

    def run(self, view: View, rng: Rng) -> Perturbation:
        seed = None if self.fault == "seed" else rng.entropy
        generator = np.random.default_rng(seed)
        flips = torch.from_numpy(generator.permutation(GRAPH.num_nodes)).view(2, -1)
        if self.fault == "globals":
            torch.rand(1)
            flips = flips[:, torch.randperm(flips.shape[1])]
        if self.fault == "mutates":
            assert view.known.y is not None
            view.known.y[0] = (view.known.y[0] + 1) % 3
        if self.fault == "idle":
            return Perturbation()
        return Perturbation(flips=flips[:, : view.edge_budget + (self.fault == "budget")])


@pytest.mark.parametrize(
    ("fault", "test", "error"),
    [
        ("seed", "test_same_seed_same_outcome", AssertionError),
        ("needs", "test_declares_no_more_than_it_uses_of_the_graph", AssertionError),
        ("mutates", "test_leaves_its_inputs_alone", AssertionError),
        ("budget", "test_holds_the_budget", BudgetExceeded),
        ("idle", "test_beats_the_trivial_attacker", AssertionError),
    ],
)
def test_attack_contract_finds(fault: str, test: str, error: type[Exception]) -> None:
    assert GRAPH.y is not None
    before = GRAPH.y.clone()
    contract = type("C", (AttackContract,), {"spec": Sloppy(fault=fault)})()
    try:
        with pytest.raises(error):
            getattr(contract, test)(GRAPH)
    finally:
        GRAPH.y.copy_(before)


def test_attack_contract_wants_a_source() -> None:
    contract = type("C", (AttackContract,), {"spec": Sloppy()})()
    with pytest.raises(AssertionError):
        contract.test_cites_its_source()


@dataclass(frozen=True, kw_only=True)
class Broken(Defense):
    """Does one thing wrong. Source: none."""

    name: ClassVar[str] = "broken"
    sanitise_: ClassVar[Callable[[Any, Any], Any]]

    def sanitise(self, x: Any, adj: Any, how: How = "exact") -> Any:
        return type(self).sanitise_(x, adj)


def test_defense_contract_finds() -> None:
    """Global randomness in sanitising, attacked graphs that are not looked at, and lost utility."""

    def noisy(x: Any, adj: Any) -> Any:
        return x + torch.rand_like(x), adj

    def blind(x: Any, adj: Any) -> Any:
        return x, GRAPH.adj

    def useless(x: Any, adj: Any) -> Any:
        return x * 0, adj

    for fault, test in (
        (noisy, "test_same_seed_same_predictor"),
        (blind, "test_sanitises_attacked_graphs"),
        (useless, "test_keeps_utility"),
    ):
        broken = type("Broken", (Broken,), {"sanitise_": staticmethod(fault)})
        contract = type("C", (DefenseContract,), {"spec": broken()})()
        with pytest.raises(AssertionError):
            getattr(contract, test)(GRAPH)


def test_import_needs_no_pytest() -> None:
    program = "import sys; sys.modules['pytest'] = None; import graphsec.testing"
    subprocess.run([sys.executable, "-c", program], check=True)
