"""What a vertical federation's messages give away: the tables and the figure of its page in docs.

    graphsec run examples/federated_attacks.toml --store sqlite:///runs.db
    python examples/federated_attacks.py --store sqlite:///runs.db --figure attacks.svg
    python examples/federated_attacks.py --batches
    python examples/federated_attacks.py --known

The first table has the AUC of de-anonymisation by what is read, means over users and then over
seeds with Student's intervals, from the store; ``--batches`` trains for some epochs and shows
what the gradients of the last one say of the batches that they are of, and ``--known`` attacks one
federation with more and fewer users known, and asks more than is matched.
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import graphsec
from graphsec.attacks.interactions._transcript import error_sums, in_batch
from graphsec.defenses.federated.verfedgnn import VerFedGNN
from graphsec.federated import Federation, Party, owners
from graphsec.federated.objectives import Errors
from graphsec.results import Results
from graphsec.stats import mean_interval
from graphsec.train import Recipe

READS = {
    "interaction-popularity": "popularity",
    "public/server": "public embeddings",
    "gradients/server": "gradients",
    "sums/server": "sums",
    "operator/server": "operator",
    "operator/party:1": "operator, at a party",
}
Row = tuple[int, str]


def row(defense: dict[str, Any]) -> Row:
    """(parties, mechanisms)."""
    size = defense["projection"]
    parts = [f"Φ {size:g}" + (", redrawn" if defense["redraw"] else "")] if size else []
    parts += ["quantised"] if defense["quantise"] else []
    return defense["parties"], " + ".join(parts) or "neither"


def gathered(url: str, metric: str) -> dict[Row, dict[str, list[float]]]:
    """Values of a metric by row and by what is read."""
    found: dict[Row, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for record in Results.from_store(url):
        attack, threat = record.spec["attack"], record.spec["threat"]
        if record.status != "done" or record.spec["dataset"]["name"] != "rating/ml-100k":
            continue
        name = f"{attack['reads']}/{threat['position']}" if "reads" in attack else attack["name"]
        if name in READS and record.spec["game"]["others"] == "popular":
            here = found[row(record.spec["defense"])]
            here[name].append(record.value(metric))
            if name == "interaction-popularity":
                here["rmse"].append(record.value("rmse"))
    return dict(sorted(found.items()))


def table(url: str, metric: str) -> str:
    """Markdown: rows of the federation, columns of what is read."""
    lines = [
        f"| parties | mechanisms | seeds | RMSE | {' | '.join(READS.values())} |",
        "|---" * (4 + len(READS)) + "|",
    ]
    for (parties, mechanisms), cells in gathered(url, metric).items():
        seeds = max(len(values) for values in cells.values())
        words = [mean_interval(cells[n]).text() if cells[n] else "–" for n in READS]
        error = sum(cells["rmse"]) / len(cells["rmse"])
        lines.append(f"| {parties} | {mechanisms} | {seeds} | {error:.4f} | {' | '.join(words)} |")
    return "\n".join(lines)


def figure(url: str, path: Path) -> None:
    """AUC over the parties, without and with the mechanisms, and over the size of Φ.

    Bars are the range of seeds.
    """
    from matplotlib.figure import Figure

    found = gathered(url, "user_auc")
    drawn = Figure(figsize=(11, 3.2), layout="constrained")
    axes = drawn.subplots(1, 3, sharey=True)
    marks = dict(zip(READS, "x.v^os", strict=True))

    def line(ax: Any, rows: list[tuple[float, Row]]) -> None:
        rows = [(at, key) for at, key in rows if key in found]
        for name, label in READS.items():
            here = [(at, found[key][name]) for at, key in rows if found[key][name]]
            mean = [sum(values) / len(values) for _, values in here]
            below = [m - min(values) for m, (_, values) in zip(mean, here, strict=True)]
            above = [max(values) - m for m, (_, values) in zip(mean, here, strict=True)]
            ax.errorbar([at for at, _ in here], mean, (below, above), label=label, capsize=3,
                        marker=marks[name], markersize=5, linewidth=1)  # fmt: skip

    for ax, mechanisms in zip(axes, ("neither", "Φ 0.2 + quantised"), strict=False):
        line(ax, [(parties, (parties, mechanisms)) for parties in (2, 5, 10)])
        ax.set(title=mechanisms, xlabel="parties", xticks=(2, 5, 10))
    sizes = (0.01, 0.05, 0.2, 0.5)
    line(axes[2], [(size, (5, f"Φ {size:g} + quantised")) for size in sizes])
    axes[2].set(title="five parties, quantised", xlabel="rows of Φ / users", xscale="log")
    axes[0].set(ylabel="AUC, mean over users", ylim=(0.5, 1))
    drawn.legend(*axes[0].get_legend_handles_labels(), fontsize=8, loc="outside right center")
    drawn.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)


def drawn(party: Party, round: int) -> tuple[Tensor, Tensor]:
    """Users and ratings of a party's batch, drawn again from its stream."""
    objective = Errors(party.graph, party.protocol, party.rng)
    count = len(objective.y)
    mine = objective.epoch.part(round, lambda g: torch.from_numpy(g.permutation(count)))
    return objective.pairs[0, mine], objective.y[mine]


def batches(quantise: bool, epochs: int) -> str:
    """What the gradients of five parties say of the users in their batches, of the last epoch."""
    graph = graphsec.load("rating/ml-100k", seed=0)
    recipe = Recipe.of("rating-lightgcn", {"epochs": epochs})
    defense = VerFedGNN(quantise=quantise, weight_decay=0.01)
    protocol = defense.protocol(graph, recipe, 0)
    owner = owners(graph.num_nodes - graph.num_users, 5, graphsec.Rng(0)["items"])
    made = Federation(graph, owner, protocol, graphsec.Rng(0)["federation"])
    made.run()
    releases, rounds = made.transcript.releases, range(protocol.rounds)[-protocol.steps :]
    public = {r.round: r.tensors for r in releases if r.topic == "public"}
    sent = {(r.sender, r.round): r.tensors for r in releases if r.topic == "gradient"}
    named = there = found = single = read = guessed = 0
    for party, at in product(made.parties, rounds):
        user, y = drawn(party, at)
        count = torch.bincount(user, minlength=graph.num_users)
        told = in_batch(sent[party.name, at])
        named, there = named + int(told.sum()), there + int((count > 0).sum())
        found += int((told & (count > 0)).sum())
        # The rating of who has one in the batch, by what is public and the sum of errors.
        guess = public[at]["offset"] + public[at]["bias"].ravel()
        once = count[user] == 1
        level = 1.0 if not quantise else protocol.level
        error = error_sums({"bias": sent[party.name, at]["bias"] * level})
        rating = (guess + error)[user[once]].round().clamp(1, 5)
        plain = guess[user[once]].round().clamp(1, 5)
        single += int(once.sum())
        read += int((rating == y[once]).sum())
        guessed += int((plain == y[once]).sum())
    return (
        f"| {'quantised' if quantise else 'as they are'} | {epochs} | {found / max(named, 1):.3f} "
        f"| {found / there:.3f} | {single / there:.3f} | {read / single:.3f} "
        f"| {guessed / single:.3f} |"
    )


def known() -> str:
    """AUC and precision at five parties, both mechanisms, by who is known and what is asked."""
    graph = graphsec.load("rating/ml-100k", seed=0)
    victim = graphsec.fit(graph, "rating-lightgcn", VerFedGNN(weight_decay=0.01), seed=0)
    lines = ["| known users | asked | popularity | operator |", "|---|---|---|---|"]
    games = [("popular", share) for share in (0.01, 0.02, 0.05, 0.1, 0.2, 0.5)]
    for others, share in [*games, ("uniform", 0.1), ("all", 0.1)]:
        game = {"name": "interactions", "parties": 10, "reveal": share, "others": others}
        secret, cells = graphsec.play(game, graph)[1], []
        assert secret is not None
        for attack in ("interaction-popularity", "de-anonymisation"):
            seat = {"position": "server"}
            out = graphsec.attack(attack, victim, graph, threat=seat, **secret.shown)
            found = graphsec.score(out, graph, victim, secret)
            cells.append(f"{found['user_auc'].value:.3f} / {found['user_precision'].value:.3f}")
        lines.append(f"| {share:g} | {others} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Print what is asked for."""
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--store", default="sqlite:///runs.db")
    asked.add_argument("--figure", type=Path)
    asked.add_argument("--batches", action="store_true")
    asked.add_argument("--known", action="store_true")
    given = asked.parse_args()
    if given.known:
        sys.stdout.write(known() + "\n")
        return
    if given.batches:
        columns = ("gradients", "epoch", "named rightly", "of those there", "with one rating",
                   "ratings read", "guessed from public")  # fmt: skip
        sys.stdout.write(f"| {' | '.join(columns)} |\n{'|---' * len(columns)}|\n")
        for quantise, epochs in product((False, True), (1, 20)):
            sys.stdout.write(batches(quantise, epochs) + "\n")
        return
    for metric in ("user_auc", "user_precision"):
        sys.stdout.write(f"\n{metric}\n\n{table(given.store, metric)}\n")
    if given.figure is not None:
        figure(given.store, given.figure)


if __name__ == "__main__":
    main()
