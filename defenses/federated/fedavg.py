"""FedAvg on the nodes of a graph (McMahan et al., AISTATS 2017)."""

from __future__ import annotations

from dataclasses import dataclass

from graphsec.defenses.federated._horizontal import HorizontalDefense
from graphsec.registry import DEFENSES


@DEFENSES.register("fedavg")
@dataclass(frozen=True, kw_only=True)
class FedAvg(HorizontalDefense):
    """Clients with nodes of their own train one model; the server averages what it changed.

    Unlike McMahan et al., whose clients take plain SGD steps on batches, they train as the recipe
    says, Adam included. ``aggregation`` puts a rule that stands liars in the place of the mean. It
    is a way to train, and protects nothing by itself: updates tell of the data (docs/leakage.md).
    With Adam, which starts afresh each round, ``training.weight_decay`` should be 0: its first
    steps are as long for a penalty as for a loss, and unlearn what other clients have found of
    features that a client does not have (docs/federated_horizontal.md).

    Source: McMahan, Moore, Ramage, Hampson & Agüera y Arcas, Communication-Efficient Learning of
    Deep Networks from Decentralized Data, AISTATS 2017, algorithm 1.
    """
