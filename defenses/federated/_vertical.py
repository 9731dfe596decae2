"""What vertical federations have in common: parties, their items, and the model they end with."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field
from torch import Tensor

from graphsec.defenses.base import Defense
from graphsec.federated import Federation, Protocol, Vertical, owners
from graphsec.graph import Graph
from graphsec.models.base import GNN, Sizes
from graphsec.models.rating import Rater, RaterSpec
from graphsec.ops import Adj, Features
from graphsec.registry import Range, SpecError, Unsearched
from graphsec.rng import Rng
from graphsec.train import OnEpoch, Recipe, Trace, Training

Where = Literal["process", "flower"]


@dataclass(frozen=True, kw_only=True)
class VerticalDefense(Defense):
    """Parties share users and hold disjoint items, drawn at random in equal parts.

    Attributes:
        parties: Number of parties.
        partition: Seed of who holds which items.
        keep: Rounds whose messages the transcript keeps with their tensors; None keeps all.
        weight_decay: Penalty in the place of the recipe's: parties with less data, or under noise,
            need another one than a training in one place.
        lr: Learning rate in the place of the recipe's.
        epochs: Epochs in the place of the recipe's.
    """

    tasks: ClassVar[tuple[str, ...]] = ("rating", "ranking")

    parties: Annotated[int, Field(ge=1, le=1000), Range(2, 10)] = 5
    partition: Annotated[int, Field(ge=0)] = 0
    keep: Annotated[int, Field(ge=0)] | None = None
    weight_decay: Annotated[float, Field(ge=0), Range(1e-3, 10, log=True)] | None = None
    lr: Annotated[float, Field(gt=0), Range(1e-2, 1, log=True)] | None = None
    epochs: Annotated[int, Field(ge=1), Range(10, 200)] | None = None

    def refuses(self, recipe: Recipe) -> str | None:
        """Only models whose layers fall into sums and updates can be shared out."""
        if not isinstance(recipe.model, RaterSpec):
            return f"needs a model that parties can share out (rating-…), got {recipe.model.name!r}"
        if recipe.training.optimizer != "adagrad":
            return f"trains by 'adagrad', got training.optimizer {recipe.training.optimizer!r}"
        if recipe.training.select != "last" or recipe.training.patience:
            return "can't stop early: training.select must be 'last' and training.patience None"
        return None

    # -- what the methods differ in -----------------------------------------------------------

    @property
    def settings(self) -> dict[str, Any]:
        """Fields of the protocol."""
        return {}

    def rows(self, users: int) -> int:
        """Rows of the projection of sums, 0 for none."""
        return 0

    # -- the way through ----------------------------------------------------------------------

    def owner(self, items: int) -> Tensor:
        """(items,) the party of each item."""
        if items < self.parties:
            raise SpecError(
                f"{self.kind} {self.name!r}: parties must be ≤ {items}, the number of items, "
                f"got {self.parties}"
            )
        return owners(items, self.parties, Rng(self.partition)["items"])

    def training(self, recipe: Recipe) -> Training:
        """The recipe's training, with what this defense has of its own."""
        own: dict[str, Any] = {
            "weight_decay": self.weight_decay,
            "lr": self.lr,
            "epochs": self.epochs,
        }
        return replace(recipe.training, **{k: v for k, v in own.items() if v is not None})

    def protocol(self, graph: Graph, recipe: Recipe, seed: int = 0) -> Protocol:
        """What all parties agree on for a training on ``graph``."""
        items = self.owner(graph.num_nodes - graph.num_users).bincount(minlength=self.parties)
        batch = recipe.training.batch_size or graph.num_edges
        return Protocol(
            model=recipe.model.spec(), training=self.training(recipe).spec(), task=graph.task,
            users=graph.num_users, items=tuple(items.tolist()),
            steps=max(1, -(-graph.num_edges // batch)), rows=self.rows(graph.num_users),
            seed=seed, **self.settings,
        )  # fmt: skip

    def build(self, recipe: Recipe, sizes: Sizes) -> GNN:
        """The model of a whole federation, untrained."""
        owner = self.owner(sizes.nodes - sizes.users)
        parts = []
        for count in owner.bincount(minlength=self.parties).tolist():
            part = recipe.model.build(Sizes(sizes.users + count, 0, 1, sizes.users))
            assert isinstance(part, Rater)
            parts.append(part)
        settings = self.settings
        return Vertical(
            parts, owner, sizes.users, settings.get("exchange", True), self.rows(sizes.users),
            settings.get("degrees") == "shared",
        )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class FederatedDefense(VerticalDefense):
    """Parties that train together, and where they run.

    Attributes:
        transport: "process" has all parties in this process; "flower" gives each a process, in a
            Flower SuperNode on this machine (extra: federated). The answers are the same.
        secure: With "flower": messages by TLS, and only the keys of these parties are let in.
        timeout: With "flower": seconds that parties have for an answer.
    """

    transport: Annotated[Where, Unsearched()] = "process"
    secure: Annotated[bool, Unsearched()] = False
    timeout: Annotated[float, Field(gt=0)] = 60.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.secure and self.transport != "flower":
            raise SpecError(
                f"{self.kind} {self.name!r}: secure must be false with transport "
                f"{self.transport!r}: nothing leaves the process"
            )

    def refuses(self, recipe: Recipe) -> str | None:
        """As all do; and Flower has to be there."""
        if self.transport == "flower" and find_spec("flwr") is None:
            return "needs flwr for transport 'flower': pip install 'graphsec[federated]'"
        return super().refuses(recipe)

    def assembled(
        self, graph: Graph, owner: Tensor, protocol: Protocol, rng: Rng
    ) -> AbstractContextManager[Federation]:
        """The federation, ready to run inside a ``with`` statement."""
        if self.transport == "process":
            return nullcontext(Federation(graph, owner, protocol, rng, keep=self.keep))
        from graphsec.federated.flower import FlowerFederation, kept_in

        folder = kept_in.get()
        kept_in.set(None)  # the next training, on a poisoned graph say, is another one
        return FlowerFederation(
            graph, owner, protocol, rng, keep=self.keep, secure=self.secure,
            timeout=self.timeout, folder=folder, resume=folder is not None,
        )  # fmt: skip

    def train(
        self, model: GNN, graph: Graph, recipe: Recipe, rng: Rng, x: Tensor | Features, adj: Adj,
        on_epoch: OnEpoch | None = None, whole: Defense | None = None,
    ) -> Trace:  # fmt: skip
        """Run the federation, and put what its parties learned into the model."""
        assert isinstance(model, Vertical)
        protocol = self.protocol(graph, recipe, rng["public"].entropy)
        with self.assembled(graph, model.owner, protocol, rng) as federation:
            federation.run(on_epoch=on_epoch)
            federation.into(model)
        model.eval()
        return federation.trace()
