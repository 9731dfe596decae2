"""From evidence and truth to numbers and curves."""

from __future__ import annotations

from dataclasses import replace

import torch

from graphsec.game import Gradients, GraphGradients, NeighbourhoodGradients, Secret
from graphsec.game.graph_gradients import truth as true_graphs
from graphsec.game.neighbourhood_gradients import true_trees
from graphsec.graph import Graph
from graphsec.graph.arrays import take_rows
from graphsec.metrics import (
    Curve,
    FairnessError,
    Metric,
    accuracy,
    attribute_metrics,
    auc_by_degree,
    certified_ratio,
    fairness_metrics,
    graph_metrics,
    hits,
    label_metrics,
    macro_f1,
    margin,
    per_user_metrics,
    property_metrics,
    r_squared,
    ranking_metrics,
    recommendation_metrics,
    reconstruction_metrics,
    relative_error,
    rmse,
    roc_curve,
    split_by,
)
from graphsec.metrics.trees import tree_metrics, unrolled
from graphsec.models.base import inputs
from graphsec.models.maps import map_inputs
from graphsec.outcome import (
    Answers,
    AttributeScores,
    LinkScores,
    MemberScores,
    Outcome,
    Perturbation,
    PropertyGuess,
    Reconstruction,
    StolenModel,
    Takeover,
)
from graphsec.ownership import Verdict
from graphsec.predict import Predictor
from graphsec.threat.features import feature_changes


def score(
    outcome: Outcome,
    graph: Graph,
    predictor: Predictor,
    secret: Secret | None = None,
    after: Predictor | None = None,
    nodes: torch.Tensor | None = None,
) -> dict[str, Metric]:
    """Numbers from evidence and truth.

    Args:
        outcome: What the attack returned.
        graph: The clean (known) graph.
        predictor: The predictor trained on it.
        secret: The game's secret, for games that have one.
        after: The predictor after a poisoning attack; default ``predictor``.
        nodes: Nodes that count; default the test nodes. Where every target has a world of its
            own (``Perturbation.per_target``) the targets count, whatever is given.

    Raises:
        ValueError: The secret is missing or not what the outcome answers, or a local attack
            poisoned: each of its worlds would need a training of its own.
    """
    after = after or predictor
    if isinstance(outcome, Perturbation) and outcome.per_target:
        if after is not predictor:
            raise ValueError("local attacks are scored on the predictor they met, not on another")
        return _by_target(outcome, graph, predictor)
    numbers = {**_utility(graph, predictor, nodes), **_validation(graph, predictor)}
    if isinstance(outcome, Perturbation) and outcome.injected and graph.task == "ranking":
        numbers |= _shilled(outcome, graph, predictor, after, secret, numbers)
    if isinstance(outcome, Takeover):
        attacked = _utility(graph, after, nodes)["accuracy"].value
        drop = numbers["accuracy"].value - attacked
        numbers["attacked_accuracy"] = Metric(attacked, True, 0, 1, "accuracy under attack")
        numbers["accuracy_drop"] = Metric(drop, False, -1, 1, "loss of accuracy")
        taken = float(outcome.clients)
        numbers["clients_taken"] = Metric(taken, False, 0, float("inf"), "clients taken over")
    if isinstance(outcome, Perturbation) and graph.task == "classification":
        if nodes is None:  # of the graph as it was: injected nodes have no labels
            nodes = graph.split.test if graph.split is not None else torch.arange(graph.num_nodes)
        attacked = _utility(outcome.apply(graph), after, nodes)["accuracy"].value
        clean = numbers["accuracy"].value
        numbers["attacked_accuracy"] = Metric(attacked, True, 0, 1, "accuracy under attack")
        numbers["accuracy_drop"] = Metric(clean - attacked, False, -1, 1, "loss of accuracy")
        flips = float(outcome.flips.shape[1])
        numbers["flips"] = Metric(flips, False, 0, float("inf"), "edges flipped")
        numbers |= _attacked_fairness(outcome, graph, after, nodes, numbers)
        if outcome.x is not None and graph.x is not None:
            changed = float(len(feature_changes(graph.x, outcome.x)[2]))
            label = "feature entries changed"
            numbers["features_changed"] = Metric(changed, False, 0, float("inf"), label)
        if outcome.injected is not None:
            new = float(len(outcome.injected.x))
            numbers["injected"] = Metric(new, False, 0, float("inf"), "nodes injected")
    if isinstance(outcome, Answers):
        numbers.update(_under_conditions(outcome, graph, predictor, nodes, numbers))
    if isinstance(outcome, StolenModel):
        numbers.update(_stolen(outcome, graph, after, nodes))
    if isinstance(outcome, LinkScores | MemberScores):
        if secret is None:
            raise ValueError("scoring links or members needs the game's secret")
        asked = outcome.pairs if isinstance(outcome, LinkScores) else outcome.nodes
        if not torch.equal(asked, secret.question):
            raise ValueError("the outcome must answer the secret's question, in its order")
        numbers.update(ranking_metrics(outcome.scores, secret.answer))
        if secret.game == "interactions":
            numbers.update(per_user_metrics(outcome.scores, secret.answer, asked[0]))
    if isinstance(outcome, AttributeScores):
        if secret is None or not torch.equal(outcome.nodes, secret.question):
            raise ValueError("scoring attributes needs the game's secret, and its nodes in order")
        numbers.update(attribute_metrics(outcome.scores, secret.answer))
    if isinstance(outcome, Reconstruction) and secret is not None:
        whole = isinstance(secret.rules, GraphGradients | NeighbourhoodGradients)
        numbers.update(
            (_recovered_graphs if whole else _recovered)(outcome, graph, predictor, secret)
        )
    if isinstance(outcome, PropertyGuess):
        if secret is None:
            raise ValueError("scoring a property needs the game's secret")
        numbers.update(property_metrics(outcome.log_odds, bool(secret.answer)))
    if isinstance(outcome, MemberScores) and secret is not None:
        groups = auc_by_degree(outcome.scores, secret.answer, graph.degree[outcome.nodes])
        if groups:
            worst = max(group.auc.mean for group in groups)
            label = "attack AUC in the worst decile of degrees"
            numbers["worst_decile_auc"] = Metric(worst, False, 0, 1, label)
    return numbers


def _shilled(
    outcome: Perturbation,
    graph: Graph,
    predictor: Predictor,
    after: Predictor,
    secret: Secret | None,
    clean: dict[str, Metric],
) -> dict[str, Metric]:
    """How often the promoted items are shown before and after, and what it costs the others.

    Only of a model that was trained with the new users: another has no embeddings of them.
    """
    attacked = outcome.apply(graph)
    new = attacked.num_users - graph.num_users
    numbers = {"injected": Metric(float(new), False, 0, float("inf"), "users injected")}
    if new and after is predictor:
        return numbers
    for name, metric in _ranked(attacked, after).items():
        numbers[f"attacked_{name}"] = replace(metric, label=f"{metric.label}, under attack")
        fell = clean[name].value - metric.value
        numbers[f"{name}_drop"] = Metric(fell, False, -1, 1, f"loss of {metric.label}")
    suspicion = None if after.origin is None else after.origin.defense.suspicion(attacked)
    if suspicion is not None and new:
        fake = torch.arange(attacked.num_users) >= graph.num_users
        found = ranking_metrics(suspicion, fake.long())["auc"].value
        numbers["detection_auc"] = Metric(found, True, 0, 1, "AUC of finding injected users")
    if secret is None or secret.game != "promotion":
        return numbers
    before = _shown(graph, predictor, secret.question, graph.num_users)
    now = _shown(attacked, after, secret.question + new, graph.num_users)
    label = f"target hit ratio@{RANKED}"
    return {
        **numbers,
        f"target_hit_at_{RANKED}": Metric(before, False, 0, 1, label),
        f"attacked_target_hit_at_{RANKED}": Metric(now, False, 0, 1, f"{label}, under attack"),
        f"target_hit_at_{RANKED}_rise": Metric(now - before, False, -1, 1, f"rise of {label}"),
    }


def _shown(graph: Graph, predictor: Predictor, items: torch.Tensor, users: int) -> float:
    """Mean over items of the share of the first ``users`` users, of those who have not taken the
    item, that find it among their first 20."""  # noqa: D205, D209
    ranked = predictor.rank(graph, torch.arange(users), RANKED)
    taker = graph.pairs[:, torch.isin(graph.pairs[1], items)]
    shares = []
    for item in items.tolist():
        new = torch.ones(users, dtype=torch.bool)
        mine = taker[0][taker[1] == item]
        new[mine[mine < users]] = False
        if bool(new.any()):
            shares.append(float((ranked[new] == item).any(1).double().mean()))
    return sum(shares) / len(shares) if shares else 0.0


def _by_target(outcome: Perturbation, graph: Graph, predictor: Predictor) -> dict[str, Metric]:
    """How the labelled targets fare, each in its own world: one forward pass a target."""
    assert graph.y is not None
    broken, flips, entries = {}, [], []
    for target, world in outcome.worlds(graph):
        if graph.y[target] >= 0:
            node = torch.tensor([target])
            broken[target] = bool(predictor.predict(world, node) != graph.y[node])
            flips.append(outcome.per_target[target].shape[1])
            changed = outcome.features_per_target.get(target)
            entries.append(0 if changed is None else changed.shape[1])
    if not broken:
        return {}
    numbers = _utility(graph, predictor, torch.tensor(list(broken)))
    share = sum(broken.values()) / len(broken)
    drop = numbers["accuracy"].value - (1 - share)
    mean = sum(flips) / len(flips)
    changes = {}
    if any(entries):
        words, label = sum(entries) / len(entries), "feature entries changed for a target"
        changes["features_changed"] = Metric(words, False, 0, float("inf"), label)
    return {
        **numbers,
        "attacked_accuracy": Metric(1 - share, True, 0, 1, "accuracy under attack"),
        "accuracy_drop": Metric(drop, False, -1, 1, "loss of accuracy"),
        "broken": Metric(share, False, 0, 1, "share of targets broken"),
        "flips": Metric(mean, False, 0, float("inf"), "edges flipped for a target"),
        **changes,
    }


def _under_conditions(
    outcome: Answers,
    graph: Graph,
    predictor: Predictor,
    nodes: torch.Tensor | None,
    clean: dict[str, Metric],
) -> dict[str, Metric]:
    """What the answers given are worth, and how far they are from those that should be given."""
    if nodes is None:
        nodes = graph.split.test if graph.split is not None else torch.arange(graph.num_nodes)
    wanted, given = predictor.logits(graph), outcome.logits
    size = float(wanted.norm())
    far = float((given - wanted).norm()) / size if size else float((given - wanted).norm())
    numbers = {"answer_change": Metric(far, False, 0, float("inf"), "relative change of answers")}
    if graph.y is None or len(nodes) == 0:
        return numbers
    if graph.task == "regression":
        value = r_squared(given[nodes].squeeze(-1), graph.y[nodes])
        numbers["attacked_r_squared"] = Metric(value, True, float("-inf"), 1, "R² under attack")
    elif graph.task == "classification":
        value = accuracy(given[nodes].argmax(1), graph.y[nodes])
        drop = clean["accuracy"].value - value
        numbers["attacked_accuracy"] = Metric(value, True, 0, 1, "accuracy under attack")
        numbers["accuracy_drop"] = Metric(drop, False, -1, 1, "loss of accuracy")
    return numbers


def _stolen(
    outcome: StolenModel, graph: Graph, victim: Predictor, nodes: torch.Tensor | None
) -> dict[str, Metric]:
    """How often the copy answers as the victim does, and how often it is right."""
    if nodes is None:
        nodes = graph.split.test if graph.split is not None else torch.arange(graph.num_nodes)
    copied = outcome.predictor.predict(graph, nodes)
    same = float((copied == victim.predict(graph, nodes)).double().mean())
    numbers = {"fidelity": Metric(same, False, 0, 1, "fidelity of the copy")}
    if graph.y is not None and bool((graph.y[nodes] >= 0).any()):
        right = accuracy(copied, graph.y[nodes])
        numbers["stolen_accuracy"] = Metric(right, False, 0, 1, "accuracy of the copy")
    return numbers


def _recovered(
    outcome: Reconstruction, graph: Graph, victim: Predictor, secret: Secret
) -> dict[str, Metric]:
    """How close what a gradient gave away is to the features and labels it was computed on."""
    rules = secret.rules
    if not isinstance(rules, Gradients) or graph.x is None:
        raise ValueError("scoring a reconstruction needs the secret of the game 'gradients'")
    nodes, hidden = outcome.nodes, rules.hidden(graph, secret.question)
    if not bool(torch.isin(nodes, hidden).all()) or len(torch.unique(nodes)) < len(nodes):
        raise ValueError("recovered nodes must be different ones, of those with private features")
    numbers = label_metrics(outcome.y, outcome.counts, secret.answer)
    if outcome.x is not None:
        sparse = graph.x.layout != torch.strided
        pixels = not sparse and 0 <= float(graph.x.min()) <= float(graph.x.max()) <= 1
        truth = take_rows(graph.x, nodes).to_dense()
        numbers |= reconstruction_metrics(outcome.x, truth, sparse=sparse, pixels=pixels)
    if outcome.inputs:
        sent = next(r for r in victim.trace.releases if r.round == rules.step)
        moment = victim.relaxed(victim.how).at(sent)
        x, adj = moment.sanitise(inputs(graph), graph.adj, "exact")
        truths = map_inputs(moment.model, x, adj, nodes)
        worst = max(relative_error(found, truths[w]) for w, found in outcome.inputs.items())
        label = "relative error of what a layer was given, the worst"
        numbers["input_error"] = Metric(worst, True, 0, float("inf"), label)
    return numbers


def _recovered_graphs(
    outcome: Reconstruction, graph: Graph, victim: Predictor, secret: Secret
) -> dict[str, Metric]:
    """How close graphs, or neighbourhoods, that a gradient gave away are to the true ones."""
    x, adj, owner = outcome.x, outcome.adj, outcome.owner
    if x is None or adj is None or owner is None:
        raise ValueError(
            "a recovered graph needs x, adj and owner: features, edges, whose a node is"
        )
    ids, labels = secret.answer
    if len(owner) and not 0 <= int(owner.min()) <= int(owner.max()) < len(ids):
        raise ValueError(
            f"owner must lie in 0…{len(ids) - 1}, found {int(owner.min())}…{int(owner.max())}"
        )
    found = split_by(owner, x, adj)
    if isinstance(secret.rules, NeighbourhoodGradients):
        hops = secret.rules.hops
        trees = [unrolled(*each, 0, hops) for each in found]
        numbers = tree_metrics(trees, true_trees(graph, secret), hops)
    else:
        numbers = graph_metrics(found, true_graphs(graph, secret))
    return numbers | label_metrics(outcome.y, outcome.counts, labels)


def ownership(verdict: Verdict) -> dict[str, Metric]:
    """What the owner finds about a copy: a high score and a low p-value accuse it."""
    return {
        "ownership_score": Metric(verdict.score, True, -1, 1, verdict.meaning),
        "ownership_p": Metric(verdict.p_value, False, 0, 1, "p-value against the copy"),
    }


def curves(outcome: Outcome, secret: Secret | None) -> dict[str, Curve]:
    """Curves for figures."""
    if isinstance(outcome, LinkScores | MemberScores) and secret is not None:
        return {"roc": roc_curve(outcome.scores, secret.answer)}
    if isinstance(outcome, AttributeScores) and secret is not None and secret.answer.max() == 1:
        return {"roc": roc_curve(margin(outcome.scores), secret.answer)}
    return {}


def certified_curves(
    radii: torch.Tensor,
    kinds: tuple[str, ...],
    graph: Graph,
    predictor: Predictor,
    nodes: torch.Tensor,
) -> dict[str, Curve]:
    """Certified accuracy by radius, one curve for each kind of change that is certified.

    Args:
        radii: (n, kinds) certified radii of all nodes' answers, −1 where nothing holds.
        kinds: What the columns count ("additions", …).
        graph: The graph that was certified.
        predictor: Whose answers these are.
        nodes: Nodes that count; those without a label are left out.

    Returns:
        "certified_" and the kind → curve; none where no node is labelled.
    """
    assert graph.y is not None
    nodes = nodes[graph.y[nodes] >= 0]
    if not len(nodes):
        return {}
    right = predictor.predict(graph, nodes) == graph.y[nodes]
    return {
        f"certified_{kind}": certified_ratio(radii[nodes, column], right)
        for column, kind in enumerate(kinds)
    }


RANKED = 20


def _utility(
    graph: Graph, predictor: Predictor, nodes: torch.Tensor | None = None
) -> dict[str, Metric]:
    if graph.task == "ranking":
        return _ranked(graph, predictor, nodes)
    if graph.task == "rating":
        return _rated(graph, predictor, nodes)
    if nodes is None:
        nodes = graph.split.test if graph.split is not None else torch.arange(graph.num_nodes)
    if graph.y is None or len(nodes) == 0:
        return {}
    nodes = _one_each(graph, nodes)
    predicted, y = predictor.predict(graph, nodes), graph.y[nodes]
    if graph.task == "regression":
        value = r_squared(predicted, y)
        return {"r_squared": Metric(value, True, float("-inf"), 1, "R²")}
    return {
        "accuracy": Metric(accuracy(predicted, y), True, 0, 1, "clean accuracy"),
        "macro_f1": Metric(macro_f1(predicted, y), True, 0, 1, "clean macro F1"),
        **_fairness(graph, predictor, nodes),
    }


def _one_each(graph: Graph, nodes: torch.Tensor) -> torch.Tensor:
    """The nodes; where whole graphs are classified, one node of each of theirs."""
    if graph.task != "graph":
        return nodes
    assert graph.graph_id is not None
    place = torch.full((int(graph.graph_id.max()) + 1,), -1)
    place[graph.graph_id[nodes]] = nodes
    return place[place >= 0]


def _fairness(graph: Graph, predictor: Predictor, nodes: torch.Tensor) -> dict[str, Metric]:
    """Gaps between groups; none where the graph has no groups or too few nodes in one of them."""
    if graph.sensitive is None or graph.y is None or graph.num_classes != 2:
        return {}
    try:
        return fairness_metrics(
            predictor.logits(graph, nodes), graph.y[nodes], graph.sensitive[nodes]
        )
    except FairnessError:
        return {}


def _attacked_fairness(
    outcome: Perturbation,
    graph: Graph,
    after: Predictor,
    nodes: torch.Tensor,
    clean: dict[str, Metric],
) -> dict[str, Metric]:
    """Gaps under attack, and by how much they rose."""
    if "delta_sp" not in clean:
        return {}
    found = _fairness(outcome.apply(graph), after, nodes)
    numbers = {
        f"attacked_{name}": replace(metric, label=f"{metric.label}, under attack")
        for name, metric in found.items()
    }
    for name, words in (("delta_sp", "ΔSP"), ("delta_eo", "ΔEO")):
        rise = found[name].value - clean[name].value
        numbers[f"{name}_rise"] = Metric(rise, False, -1, 1, f"rise of {words}")
    return numbers


def _validation(graph: Graph, predictor: Predictor) -> dict[str, Metric]:
    """Accuracy, or RMSE, on the validation part: what hyperparameters may be chosen by."""
    if graph.task == "rating":
        found = _rated(graph, predictor, part="val").get("rmse")
        return {} if found is None else {"val_rmse": replace(found, label="RMSE, validation")}
    if graph.task not in ("classification", "graph") or graph.split is None or graph.y is None:
        return {}
    nodes = _one_each(graph, graph.split.val)
    if not len(nodes):
        return {}
    value = accuracy(predictor.predict(graph, nodes), graph.y[nodes])
    return {
        "val_accuracy": Metric(value, True, 0, 1, "clean accuracy, validation"),
        **{
            f"val_{name}": replace(metric, label=f"{metric.label}, validation")
            for name, metric in _fairness(graph, predictor, nodes).items()
        },
    }


def _rated(
    graph: Graph, predictor: Predictor, nodes: torch.Tensor | None = None, part: str = "test"
) -> dict[str, Metric]:
    """RMSE of the held-out ratings; predictions are not cut to the scale of the ratings."""
    if graph.holdout is None:
        return {}
    pairs, y = dict(graph.holdout.items())[part], getattr(graph.holdout, f"{part}_y")
    if nodes is not None:
        mine = torch.isin(pairs[0], nodes)
        pairs, y = pairs[:, mine], y[mine]
    if not len(y):
        return {}
    return {"rmse": Metric(rmse(predictor.rate(graph, pairs), y), False, 0, float("inf"), "RMSE")}


def _ranked(
    graph: Graph, predictor: Predictor, nodes: torch.Tensor | None = None
) -> dict[str, Metric]:
    """Recall, NDCG and hit rate at 20 of all items but those of training and validation."""
    if graph.holdout is None or graph.holdout.test.shape[1] == 0:
        return {}
    users = torch.unique(graph.holdout.test[0])
    if nodes is not None:
        users = users[torch.isin(users, nodes)]
    if len(users) == 0:
        return {}
    known = torch.cat([graph.pairs, graph.holdout.val], dim=1)
    ranked = predictor.rank(graph, users, RANKED, known)
    return recommendation_metrics(*hits(ranked, users, graph.holdout.test))
