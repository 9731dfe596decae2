"""shaDow: PageRank around a root, subgraphs side by side, and predictors that answer on them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import graphsec
from graphsec.cell import Cell, run_cell
from graphsec.graph import Graph
from graphsec.models import build
from graphsec.ops import compiled, visited
from graphsec.predict import Predictor
from graphsec.registry import SpecError
from graphsec.rng import Rng
from graphsec.sampling import Shadow, read, take
from graphsec.testing import some_flips, tiny_graphs
from graphsec.testing.common import x_of
from graphsec.train import Training

GRAPHS = pytest.mark.parametrize("graph", tiny_graphs().values(), ids=list(tiny_graphs()))
BLOCKS = tiny_graphs()["blocks"]
ROOTS = torch.tensor([5, 0, 17])


def pagerank(graph: Graph, teleport: float) -> Tensor:
    """Dense rows of teleport · (I − (1 − teleport) D^-1 A)^-1; a node alone keeps everything."""
    a = torch.from_numpy(graph.to_scipy().toarray()).double()
    degree = a.sum(1, keepdim=True)
    walk = torch.where(degree > 0, a / degree.clamp(min=1e-12), torch.eye(len(a)).double())
    inverse: Tensor = torch.linalg.inv(torch.eye(len(a)).double() - (1 - teleport) * walk)
    return teleport * inverse


@GRAPHS
@pytest.mark.parametrize("numba", [True, False])
def test_scores_are_personalised_pagerank(graph: Graph, numba: bool) -> None:
    """From below, by no more than ε a unit of degree; the root first, then by falling score."""
    epsilon, roots = 1e-6, torch.tensor([5, graph.num_nodes - 1])
    with compiled(numba):
        indptr, nodes, scores = visited(
            graph.adj, roots, most=graph.num_nodes, threshold=0, teleport=0.2, epsilon=epsilon
        )
    exact = pagerank(graph, 0.2)
    slack = epsilon * float(graph.adj.degrees().sum().clamp(min=1)) + 1e-9
    for i, root in enumerate(roots.tolist()):
        mine = slice(int(indptr[i]), int(indptr[i + 1]))
        error = exact[root][nodes[mine]] - scores[mine]
        assert float(error.min()) > -1e-9
        assert float(error.max()) <= slack
        assert int(nodes[mine][0]) == root
        assert (scores[mine][1:].diff() <= 0).all()


@GRAPHS
@pytest.mark.parametrize("numba", [True, False])
def test_most_and_threshold_choose_the_best(graph: Graph, numba: bool) -> None:
    exact = pagerank(graph, 0.15)[3].clone()
    exact[3] = 0
    best = exact.argsort(descending=True)
    limits: dict[str, Any] = {"teleport": 0.15, "epsilon": 1e-9}
    with compiled(numba):
        few = visited(graph.adj, ROOTS[:1] * 0 + 3, most=5, threshold=0, **limits)[1]
        near = visited(graph.adj, ROOTS[:1] * 0 + 3, most=90, threshold=0.5, **limits)[1]
    assert few.tolist()[0] == near.tolist()[0] == 3
    torch.testing.assert_close(exact[few[1:]], exact[best[:4]], rtol=1e-4, atol=1e-8)
    assert set(near[1:].tolist()) == set((exact >= 0.5 * exact.max()).nonzero().ravel().tolist())


def test_walks_go_to_those_that_send() -> None:
    """0 → 1 → 2: from the end one walk in five stops, and one in five of the rest; 0 keeps all."""
    graph = Graph.from_edges([[0, 1], [1, 2]], 3, directed=True)
    limits: dict[str, Any] = {"most": 3, "threshold": 0, "teleport": 0.2, "epsilon": 1e-6}
    indptr, nodes, scores = visited(graph.adj, torch.tensor([2, 0]), **limits)
    assert nodes.tolist() == [2, 0, 1, 0]
    assert indptr.tolist() == [0, 3, 4]
    torch.testing.assert_close(scores, torch.tensor([0.2, 0.64, 0.16, 1.0]).double())


@GRAPHS
@pytest.mark.parametrize("shadow", [Shadow(hops=2), Shadow(nodes=6)], ids=["hops", "pagerank"])
def test_subgraphs_are_induced_and_apart(graph: Graph, shadow: Shadow) -> None:
    scopes = shadow.scopes(graph.adj, ROOTS)
    index = torch.tensor([2, 0])
    nodes, adj = scopes.batch(index)
    assert adj.owner is not None
    assert adj.roots is not None
    row, col = adj.csr.coo
    assert torch.equal(nodes[adj.roots], ROOTS[index])
    assert torch.equal(adj.owner[adj.roots], torch.tensor([0, 1]))
    assert torch.equal(adj.owner[row], adj.owner[col])
    whole = torch.from_numpy(graph.to_scipy().toarray()).float()
    for i in range(2):
        copies = (adj.owner == i).nonzero().ravel()
        mine = nodes[copies]
        assert len(set(mine.tolist())) == len(mine)
        dense = torch.zeros(len(nodes), len(nodes))
        dense[row, col] = 1.0 if adj.weight is None else adj.weight
        torch.testing.assert_close(dense[copies][:, copies], whole[mine][:, mine])
    torch.testing.assert_close(adj.degrees(), graph.adj.degrees()[nodes])


def test_hops_hold_all_nodes_that_near() -> None:
    a = torch.from_numpy(BLOCKS.to_scipy().toarray()) != 0
    reach = torch.eye(90, dtype=torch.bool)
    for hops in range(4):
        scopes = Shadow(hops=hops).scopes(BLOCKS.adj, ROOTS)
        for i, root in enumerate(ROOTS):
            mine = scopes.nodes[scopes.indptr[i] : scopes.indptr[i + 1]]
            assert torch.equal(mine, reach[root].nonzero().ravel())
        reach = reach | (reach.float() @ a.float() > 0)


@pytest.mark.parametrize("pooling", ["center", "mean", "max"])
def test_pooling(pooling: Any) -> None:
    shadow = Shadow(nodes=4, pooling=pooling)
    nodes, adj = shadow.scopes(BLOCKS.adj, ROOTS).batch(torch.arange(3))
    logits = torch.randn(len(nodes), 2, generator=torch.Generator().manual_seed(0))
    out = read(logits, adj, ROOTS, pooling)
    assert adj.owner is not None
    assert adj.roots is not None
    for i in range(3):
        mine = logits[adj.owner == i]
        wanted = {"center": logits[adj.roots[i]], "mean": mine.mean(0), "max": mine.amax(0)}
        torch.testing.assert_close(out[i], wanted[pooling])


def test_candidate_pairs_count_as_edges() -> None:
    """Subgraphs of a graph with flips at weight 1 are those of the flipped graph."""
    flips = some_flips(BLOCKS)
    with Rng(0).scope():
        model = build({"name": "gcn", "layers": 3}, BLOCKS).eval()
    shadow, roots = Shadow(hops=3), torch.arange(90)
    ours = shadow.scopes(BLOCKS.adj.with_block(flips, torch.ones(flips.shape[1])), roots)
    theirs = shadow.scopes(BLOCKS.flip(flips).adj, roots)
    assert torch.equal(ours.nodes, theirs.nodes)
    torch.testing.assert_close(
        shadow.answers(model, x_of(BLOCKS), ours), shadow.answers(model, x_of(BLOCKS), theirs)
    )


def victim(**training: Any) -> Predictor:
    return graphsec.fit(BLOCKS, {"name": "gcn", "hidden": 8, "dropout": 0}, training=training)


def test_training_on_whole_scopes_is_full_batch() -> None:
    """The gradient of one batch of all roots, each on its two hops, is that of the whole graph."""
    whole = victim(epochs=3)
    mine = victim(epochs=3, sampler={"name": "shadow", "hops": 2})
    for one, two in zip(whole.model.parameters(), mine.model.parameters(), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-3, atol=1e-4)


def test_answers_come_from_subgraphs_and_forward_from_the_whole_graph() -> None:
    made = victim(epochs=40, batch_size=8, select="loss", sampler={"name": "shadow", "nodes": 4})
    x, adj = x_of(BLOCKS), BLOCKS.adj
    assert made.sampler is not None
    scopes = made.sampler.scopes(adj, ROOTS)
    nodes, batch = scopes.batch(torch.arange(3))
    with torch.no_grad():
        wanted = read(made.model(take(x, nodes), batch), batch, ROOTS)
        torch.testing.assert_close(made.logits(BLOCKS, ROOTS), wanted)
        assert not torch.allclose(made.forward(x, adj)[ROOTS], wanted, atol=1e-3)
        assert torch.equal(made.forward(x, adj), made.model(x, adj))
    assert BLOCKS.split is not None
    assert BLOCKS.y is not None
    val = BLOCKS.split.val
    loss = torch.nn.functional.cross_entropy(made.logits(BLOCKS, val), BLOCKS.y[val])
    best = min(figures["val_loss"] for figures in made.trace.history)
    assert float(loss) == pytest.approx(best, rel=1e-4)  # validated as it answers


def test_an_attacked_graph_draws_its_own_subgraphs() -> None:
    """Scored and queried on subgraphs of the attacked graph; the attack itself is a transfer."""
    made = victim(epochs=30, sampler={"name": "shadow", "nodes": 8})
    outcome = graphsec.attack(
        {"name": "prbcd", "steps": 10, "block": 500}, made, BLOCKS, threat={"budget": {"edges": 20}}
    )
    attacked = outcome.apply(BLOCKS)
    assert not torch.equal(made.logits(attacked), made.logits(BLOCKS))
    fresh = made.answer(x_of(attacked), attacked.adj)
    torch.testing.assert_close(made.logits(attacked), fresh)


@pytest.mark.parametrize(("attack", "marked"), [("prbcd", True), ("random", False)])
def test_a_record_says_that_gradients_are_not_the_victims(attack: str, marked: bool) -> None:
    training = {"epochs": 2, "sampler": {"name": "shadow", "nodes": 8}}
    threat = {"budget": {"edges": 1}}
    cell = Cell(dataset="karate", attack=attack, threat=threat, training=training)
    record = run_cell(cell)
    assert record.status == "done", record.reason
    assert ("whole-graph model" in record.threat) == marked


def test_a_saved_predictor_still_answers_on_subgraphs(tmp_path: Path) -> None:
    made = victim(epochs=5, sampler={"name": "shadow", "nodes": 8, "pooling": "mean"})
    again = Predictor.load(made.save(tmp_path / "m.pt"))
    assert again.sampler == made.sampler
    torch.testing.assert_close(again.logits(BLOCKS), made.logits(BLOCKS))


def test_no_roots() -> None:
    with Rng(0).scope():
        model = build("gcn", BLOCKS).eval()
    scopes = Shadow().scopes(BLOCKS.adj, ROOTS[:0])
    assert Shadow().answers(model, x_of(BLOCKS), scopes).shape == (0, 3)


def test_training_names_its_sampler() -> None:
    def sampler(spec: Any) -> Any:
        return Training(sampler=spec).sampler

    assert sampler("shadow") == Shadow()
    spec = Training(sampler=Shadow(nodes=50)).spec()
    assert spec["sampler"] == Shadow(nodes=50).spec()
    spec.pop("name")
    assert Training(**spec).sampler == Shadow(nodes=50)
    with pytest.raises(SpecError, match=r"sampler.*no field 'node'; did you mean 'nodes'"):
        sampler({"name": "shadow", "node": 50})
    with pytest.raises(ValueError, match=r"fanouts must be None with training.sampler"):
        victim(epochs=1, sampler="shadow", fanouts=(2, 2))
