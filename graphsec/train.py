"""The one training loop: full batch or sampled, with the published selection rules."""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field, PlainValidator
from torch import Tensor

from graphsec.graph import Graph
from graphsec.models.base import GNN, ModelSpec, inputs
from graphsec.ops import Adj, Features
from graphsec.ranking import BPR, Draw
from graphsec.rating import SquaredError
from graphsec.readout import Graphs, Readout
from graphsec.registry import MODELS, SAMPLERS, Component, Range, SpecError
from graphsec.rng import Rng
from graphsec.rounds import LocalRounds, sum_of_clients
from graphsec.sampling import Scopes, Shadow, batches, read, take

log = logging.getLogger(__name__)

Step = Callable[[list[Tensor]], list[Tensor]]
OnEpoch = Callable[[int, dict[str, float]], bool]
World = Callable[[Literal["train", "val"], int], tuple[Tensor | Features, Adj]]
Regulariser = Callable[[Tensor, Tensor], Tensor]


def _sampler(spec: Any) -> Any:
    return None if spec is None else SAMPLERS.build(spec)


@dataclass(frozen=True, kw_only=True)
class Training(Component):
    """How a model is trained; part of what a result depends on.

    Attributes:
        epochs: Most epochs.
        optimizer: Rule of the steps.
        lr: Learning rate.
        schedule: Whether the rate stays, or falls to 0 over ``epochs`` along half a "cosine".
        weight_decay: L2 penalty, added to the gradient as in the reference codes; in ranking and
            rating, a penalty in the loss on the initial embeddings of the batch.
        decay: Whether the penalty is on all layers or on the first, as in GCN's recipe.
        patience: Epochs without improvement before stopping; None never stops early.
        select: Which parameters are kept: of the last epoch, of the lowest validation loss, of
            the highest validation accuracy, or "joint" (GAT's rule: both at least as good as
            ever; patience runs while neither is); in ranking "last" or "ndcg", the highest
            NDCG@20 on the validation pairs; in rating "last" or "loss", the lowest RMSE on them.
        validate_every: Epochs from one look at the validation part to the next.
        batch_size: Roots (or triples, or ratings) a step; None trains on the whole graph.
        fanouts: Neighbours sampled a layer in batches; None keeps all.
        triples: How ranking draws an epoch: as many draws of a user, uniform over "users", and
            one of the user's items, as there are interactions (what LightGCN's code does, and
            what validation preferred here), or each of the "interactions" once.
        negatives: Items not taken that are drawn for a triple, of which the one that the model
            ranks highest goes into it: 1 is BPR's uniform draw, more is dynamic negative sampling
            (Zhang et al., SIGIR 2013).
        sampler: "shadow", or its spec: the model is trained, validated and asked on a subgraph of
            its own around each node; None on the whole graph, or on hops if there are batches.
        readout: How the answer about a whole graph is read off its nodes (task "graph").
        expose: Number of first steps, or rounds, that leave the trainer (gradient leakage).
        local_steps: Steps of a round after which the difference of the weights is released and
            used, not the gradient of each (FedAvg: McMahan et al., AISTATS 2017, algorithm 1, with
            one client); plain SGD at a constant rate. None releases gradients.

    Raises:
        SpecError: Local steps are not of plain SGD at a constant rate.
    """

    name: ClassVar[str] = "training"
    kind: ClassVar[str] = "training"

    epochs: Annotated[int, Field(ge=1), Range(50, 1000, log=True)] = 200
    optimizer: Literal["adam", "adamax", "rmsprop", "sgd", "adagrad"] = "adam"
    lr: Annotated[float, Field(gt=0, le=100), Range(1e-3, 1e-1, log=True)] = 0.01
    schedule: Literal["constant", "cosine"] = "constant"
    weight_decay: Annotated[float, Field(ge=0), Range(1e-5, 1e-2, log=True)] = 5e-4
    decay: Literal["all", "first"] = "all"
    patience: Annotated[int, Field(ge=1)] | None = None
    select: Literal["last", "loss", "accuracy", "joint", "ndcg"] = "last"
    validate_every: Annotated[int, Field(ge=1)] = 1
    batch_size: Annotated[int, Field(ge=1)] | None = None
    fanouts: tuple[int, ...] | None = None
    triples: Draw = "users"
    negatives: Annotated[int, Field(ge=1, le=1024), Range(1, 32, log=True)] = 1
    sampler: Annotated[Shadow | None, PlainValidator(_sampler)] = None
    readout: Readout = "mean"
    expose: Annotated[int, Field(ge=0)] = 0
    local_steps: Annotated[int, Field(ge=1), Range(1, 20, log=True)] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, found, only in (
            ("optimizer", self.optimizer, "sgd"), ("schedule", self.schedule, "constant"),
        ):  # fmt: skip
            if self.local_steps is not None and found != only:
                raise SpecError(
                    f"training.{name} must be {only!r} with training.local_steps, got {found!r}"
                )


@dataclass(frozen=True)
class Recipe:
    """A model and how to train it."""

    model: ModelSpec
    training: Training

    @staticmethod
    def of(model: Any, training: Any = None) -> Recipe:
        """Recipe from specs; ``training`` changes single fields of the model's own recipe."""
        made: ModelSpec = MODELS.build(model)
        if isinstance(training, Training):
            return Recipe(made, training)
        changes = {**made.training, **(training or {})}
        changes.pop("name", None)
        known = Training.__dataclass_fields__
        for name in changes:
            if name not in known:
                from graphsec.registry import did_you_mean

                raise SpecError(f"training has no field {name!r}; {did_you_mean(name, [*known])}")
        return Recipe(made, Training(**changes))

    def spec(self) -> dict[str, Any]:
        """Plain form, for records and keys."""
        return {"model": self.model.spec(), "training": self.training.spec()}


@dataclass(frozen=True)
class Release:
    """Something that left the trainer: a gradient, or a message between parties.

    Attributes:
        round: Step or round it belongs to.
        kind: "gradient", "update" (a difference of weights), "message", …
        tensors: What was sent, by name.
        sender: Who sent it ("trainer", "party:1", …).
        receiver: Who received it ("server", "party:2", …).
        topic: What a message is about ("sums", "gradient", …).
        layer: Layer that it is about, −1 for none.
        fields: (name, type on the wire, shape) of each tensor, also where tensors are not kept.
        size: Bytes on the wire, header included; None counts the tensors.
    """

    round: int
    kind: str
    tensors: dict[str, Tensor]
    sender: str = "trainer"
    receiver: str = "server"
    topic: str = ""
    layer: int = -1
    fields: tuple[tuple[str, str, tuple[int, ...]], ...] = ()
    size: int | None = None

    @property
    def bytes(self) -> int:
        """Size on the wire, or of the payload."""
        if self.size is not None:
            return self.size
        return sum(t.numel() * t.element_size() for t in self.tensors.values())


@dataclass
class Trace:
    """What a training showed and did: losses by epoch, and everything it released.

    Attributes:
        epochs: Epochs, or private steps, that were run.
        history: Figures of each epoch; of a private training none that are private.
        releases: What left the trainer.
        spent: Events of a private training, and how often each was spent (``dp.Ledger``).
        incidents: What went wrong without ending the training (parties away or refused).
        cost: What it cost beside time, by name; records have it.
        agreed: What all who took part in a federation agreed on beforehand (its ``Protocol``).
    """

    epochs: int = 0
    history: list[dict[str, float]] = field(default_factory=list)
    releases: list[Release] = field(default_factory=list)
    spent: list[tuple[Any, int]] = field(default_factory=list)
    incidents: list[str] = field(default_factory=list)
    cost: dict[str, float] = field(default_factory=dict)
    agreed: dict[str, Any] = field(default_factory=dict)


def loss_of(task: str, logits: Tensor, y: Tensor) -> Tensor:
    """Cross-entropy over labelled nodes (k,), or with the probabilities (k, classes) that ``y``
    holds of each class; mean squared error for regression."""  # noqa: D205, D209
    if task == "regression":
        return F.mse_loss(logits.squeeze(-1), y)
    return F.cross_entropy(logits, y, ignore_index=-1)


def fit(
    model: GNN,
    graph: Graph,
    training: Training,
    rng: Rng,
    *,
    x: Tensor | Features | None = None,
    adj: Adj | None = None,
    release: Step | None = None,
    on_epoch: OnEpoch | None = None,
    world: World | None = None,
    targets: Tensor | None = None,
    clients: Sequence[Tensor] | None = None,
    regulariser: Regulariser | None = None,
) -> Trace:
    """Train ``model`` in place.

    Args:
        model: Freshly built model.
        graph: Supplies labels and split, and features and edges unless given.
        training: How.
        rng: Stream of the training; dropout and batches draw from it.
        x: Features to use instead of the graph's (sanitised).
        adj: Adjacency to use instead of the graph's (sanitised).
        release: What happens to a gradient (one tensor a parameter) before it is used and leaves
            the trainer: clipping, noise, pruning.
        on_epoch: Called with (epoch, figures); returning True stops the training (pruners).
        world: Called with the part of the split and the epoch before each epoch ("train") and
            each look at the validation nodes ("val"); gives the features and adjacency to take
            in the place of ``x`` and ``adj`` (attacked ones, or those learned with the model).
        targets: (n, classes) probabilities to train on in the place of the labels, which are still
            what is validated on: a model learns another's answers.
        clients: Places among the training nodes (k,) of each client, whose gradients go through
            ``release`` apart and leave the trainer as one mean; None is one client.
        regulariser: Called with the logits (k, classes) of a step's training nodes and these nodes
            (k,); what it gives is added to the loss of the step.

    Returns:
        What the training showed.

    Raises:
        ValueError: The graph lacks what training needs, or the loss stopped being finite.
    """
    x = inputs(graph) if x is None else x
    adj = graph.adj if adj is None else adj
    trace = Trace()
    pairwise = graph.task in ("ranking", "rating")
    (_check_pairwise if pairwise else _check_labels)(graph, training)
    if not any(p.requires_grad for p in model.parameters()):
        model.eval()
        return trace
    if world is not None and training.sampler is not None:
        raise ValueError(
            "training.sampler must be None where the defense changes the graph in training, "
            f"got {training.sampler.name!r}"
        )
    _check_federated(training, pairwise, clients)
    if regulariser is not None and (pairwise or clients is not None):
        raise ValueError("a regulariser needs labelled nodes, and must be None with clients")
    if graph.task == "ranking":
        objective: BPR | SquaredError | Graphs | Labels = BPR(model, graph, training, x, adj)
    elif graph.task == "rating":
        objective = SquaredError(model, graph, training, x, adj)
    elif graph.task == "graph":
        objective = Graphs(model, graph, training, x, adj)
    else:
        objective = Labels(model, graph, training, x, adj, targets, clients, regulariser)
    optimizer = _optimizer(model, training, pairwise)
    schedule = _schedule(optimizer, training)
    keeper = _Keeper(training)
    rounds = None if training.local_steps is None else LocalRounds(model, training.local_steps)
    with rng.scope():
        for epoch in range(training.epochs):
            if world is not None:
                objective.x, objective.adj = world("train", epoch)
            model.train()
            total, seen = 0.0, 0
            for step, (size, loss) in enumerate(objective.losses(rng["epoch"][epoch])):
                optimizer.zero_grad(set_to_none=True)
                if clients is None:
                    loss.backward()  # type: ignore[no-untyped-call]
                else:
                    loss = sum_of_clients(model, loss, clients, release)
                if rounds is None:
                    last = release if clients is None else None  # clients did it before the sum
                    released(model, last, trace, training, f"epoch {epoch}, step {step}")
                optimizer.step()
                if rounds is not None and rounds.stepped():
                    record(trace, training, "update", *rounds.close(release))
                total, seen = total + loss.item() * size, seen + size
            schedule.step()
            figures = {"loss": total / seen}
            if not math.isfinite(figures["loss"]):
                raise ValueError(
                    f"training loss must stay finite, got {figures['loss']} in epoch {epoch}; "
                    f"training.lr is {training.lr}"
                )
            look = (epoch + 1) % training.validate_every == 0
            if look and (keeper.watches or on_epoch is not None):
                if world is not None:
                    objective.x, objective.adj = world("val", epoch)
                figures.update(objective.validate())
            trace.history.append(figures)
            trace.epochs = epoch + 1
            done = look and keeper.stop(model, figures)
            if done or (on_epoch and on_epoch(epoch, figures)):
                break
        if rounds is not None and rounds.count:  # what is left of a round: sent, and not exposed
            rounds.close(release)
    keeper.restore(model)
    model.eval()
    objective.x, objective.adj = x, adj
    objective.settle()
    return trace


class Labels:
    """The objective of classification and regression: a loss over labelled nodes."""

    def __init__(
        self, model: GNN, graph: Graph, training: Training, x: Tensor | Features, adj: Adj,
        targets: Tensor | None = None, clients: Sequence[Tensor] | None = None,
        regulariser: Regulariser | None = None,
    ) -> None:  # fmt: skip
        assert graph.y is not None
        assert graph.split is not None
        self.clients, self.regulariser = clients, regulariser
        self.model, self.training, self.x, self.adj = model, training, x, adj
        self.task, self.y, self.split = graph.task, graph.y, graph.split
        self.wanted = graph.y if targets is None else targets
        self.scopes = _scopes(adj, graph.split, training)

    def losses(self, rng: Rng) -> Iterator[tuple[int, Tensor]]:
        """(roots, loss) of each step of an epoch."""
        pooling = self.training.sampler.pooling if self.training.sampler else "center"
        train = self.split.train
        steps = _steps(self.x, self.adj, train, self.training, self.model, rng, self.scopes)
        for roots, xs, adjs in steps:
            if self.model.capabilities.alone and self.scopes is None:
                logits = self.model.at(xs, adjs, roots)
            else:
                logits = read(self.model(xs, adjs), adjs, roots, pooling)
            y = self.wanted[roots]
            if self.clients is None:
                loss = loss_of(self.task, logits, y)
            else:  # one a client
                loss = torch.stack([loss_of(self.task, logits[c], y[c]) for c in self.clients])
            if self.regulariser is not None:
                loss = loss + self.regulariser(logits, roots)
            penalty = self.model.penalty(xs, adjs)
            yield len(roots), loss if penalty is None else loss + penalty

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Loss and accuracy on the validation nodes; nothing without any."""
        if len(self.split.val) == 0:
            return {}
        self.model.eval()
        self.settle()
        y = self.y[self.split.val]
        if self.scopes is None or self.training.sampler is None:
            logits = self.model.at(self.x, self.adj, self.split.val)
        else:
            logits = self.training.sampler.answers(self.model, self.x, self.scopes[1])
        figures = {"val_loss": float(loss_of(self.task, logits, y))}
        if self.task != "regression":
            figures["val_accuracy"] = float((logits.argmax(1) == y).float().mean())
        return figures

    def settle(self) -> None:
        """Let the model choose on validation nodes what training left open."""
        if len(self.split.val):
            self.model.settle(self.x, self.adj, self.y, self.split.val)


def _check_labels(graph: Graph, training: Training) -> None:
    if graph.y is None:
        raise ValueError(f"y is missing in {graph.name!r}: training needs labels")
    if graph.split is None or len(graph.split.train) == 0:
        raise ValueError(f"split.train is empty in {graph.name!r}: training needs nodes")
    if training.select == "ndcg":
        raise ValueError(f"training.select must not be 'ndcg' for {graph.task}: it ranks nothing")
    _check_validation(training, len(graph.split.val) > 0, "split.val", graph)


def _check_pairwise(graph: Graph, training: Training) -> None:
    best = "ndcg" if graph.task == "ranking" else "loss"
    if training.select not in ("last", best):
        raise ValueError(
            f"training.select must be 'last' or {best!r} for {graph.task}, got {training.select!r}"
        )
    if training.sampler is not None:
        raise ValueError(
            f"training.sampler must be None for {graph.task}, got {training.sampler.name!r}"
        )
    pairs = graph.holdout is not None and graph.holdout.val.shape[1] > 0
    _check_validation(training, pairs, "holdout.val", graph)


def _check_validation(training: Training, present: bool, name: str, graph: Graph) -> None:
    if (training.select != "last" or training.patience) and not present:
        raise ValueError(
            f"{name} is empty in {graph.name!r}, but training.select is "
            f"{training.select!r} and training.patience {training.patience}"
        )


def _check_federated(training: Training, ranking: bool, clients: Sequence[Tensor] | None) -> None:
    if training.local_steps is not None and ranking:
        raise ValueError("training.local_steps must be None for ranking and rating")
    if clients is not None:
        for name in ("local_steps", "batch_size", "sampler"):
            found = getattr(training, name)
            if found is not None:
                raise ValueError(f"training.{name} must be None with clients, got {found!r}")


_OPTIMIZERS: dict[str, type[torch.optim.Optimizer]] = {
    "adam": torch.optim.Adam,
    "adamax": torch.optim.Adamax,
    "rmsprop": torch.optim.RMSprop,
    "sgd": torch.optim.SGD,
    "adagrad": torch.optim.Adagrad,
}


def _optimizer(model: GNN, training: Training, pairwise: bool) -> torch.optim.Optimizer:
    if pairwise:  # whose penalty stands in the loss, and whose tables are worth a fused step
        groups = model.groups(0.0, "all")
        fused: dict[str, Any] = {"fused": True} if training.optimizer == "adam" else {}
        return _OPTIMIZERS[training.optimizer](groups, lr=training.lr, **fused)  # type: ignore[call-arg]
    groups = model.groups(training.weight_decay, training.decay)
    return _OPTIMIZERS[training.optimizer](groups, lr=training.lr)  # type: ignore[call-arg]


def _schedule(
    optimizer: torch.optim.Optimizer, training: Training
) -> torch.optim.lr_scheduler.LRScheduler:
    if training.schedule == "cosine":
        return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, training.epochs)
    return torch.optim.lr_scheduler.ConstantLR(optimizer, 1.0)


def _scopes(adj: Adj, split: Any, training: Training) -> tuple[Scopes, Scopes] | None:
    """Subgraphs of training and validation nodes; they are the same in every epoch."""
    if training.sampler is None:
        return None
    if training.fanouts is not None:
        raise ValueError(
            f"training.fanouts must be None with training.sampler, got {training.fanouts}"
        )
    sampler = training.sampler
    return sampler.scopes(adj, split.train), sampler.scopes(adj, split.val)


def _steps(
    x: Tensor | Features, adj: Adj, train: Tensor, training: Training, model: GNN, rng: Rng,
    scopes: tuple[Scopes, Scopes] | None,
) -> Any:  # fmt: skip
    """(roots, features, adjacency) of each step of an epoch."""
    if scopes is not None:
        return (
            (roots, take(x, nodes), batch)
            for roots, nodes, batch in scopes[0].batches(training.batch_size or len(train), rng)
        )
    if training.batch_size is None:
        return [(train, x, adj)]
    if model.capabilities.alone:
        order = train[torch.randperm(len(train), generator=rng["order"].torch())]
        return ((roots, x, adj) for roots in torch.split(order, training.batch_size))
    if model.layers is None or not model.capabilities.sampled:
        raise ValueError(f"training.batch_size: {type(model).__name__} does not run on samples")
    fanouts = training.fanouts or (-1,) * model.layers
    if len(fanouts) != model.layers:
        raise ValueError(
            f"training.fanouts must have one value a layer ({model.layers}), got {fanouts}"
        )
    return (
        (roots, take(x, nodes), batch)
        for roots, nodes, batch in batches(adj, train, training.batch_size, fanouts, rng)
    )


def released(model: GNN, release: Step | None, trace: Trace, training: Training, when: str) -> None:
    """Apply the release step to the gradient, and record it while exposure lasts."""
    named = [(n, p) for n, p in model.named_parameters() if p.grad is not None]
    if release is not None:
        changed = release([p.grad for _, p in named if p.grad is not None])
        for (_, parameter), gradient in zip(named, changed, strict=True):
            parameter.grad = gradient
    if len(trace.releases) < training.expose:
        gradient_of = {n: p.grad.clone() for n, p in named if p.grad is not None}
        state = {n: p.detach().clone() for n, p in model.named_parameters()}
        record(trace, training, "gradient", gradient_of, state)
        log.debug("released the gradient of %s", when)


def record(
    trace: Trace, training: Training, kind: str, sent: dict[str, Tensor], state: dict[str, Tensor]
) -> None:
    """Record what left the trainer, and the parameters it was made at, while exposure lasts.

    The parameters of that moment are public in federated learning: they are broadcast.
    """
    if len(trace.releases) < training.expose:
        public = {f"parameter:{name}": p for name, p in state.items()}
        trace.releases.append(Release(len(trace.releases), kind, {**sent, **public}))


class _Keeper:
    """Remembers the parameters that the selection rule prefers, and says when to stop."""

    def __init__(self, training: Training) -> None:
        self.training = training
        self.watches = training.select != "last" or training.patience is not None
        self.best_loss, self.best_accuracy = math.inf, -math.inf
        self.waited = 0
        self.state: dict[str, Tensor] | None = None

    def stop(self, model: GNN, figures: dict[str, float]) -> bool:
        """Take note of an epoch; whether patience has run out."""
        if not self.watches:
            return False
        if "val_ndcg" in figures:  # ranking has one measure: less of it is a loss
            loss, accuracy = -figures["val_ndcg"], figures["val_ndcg"]
        else:
            loss, accuracy = figures["val_loss"], figures.get("val_accuracy", 0.0)
        lower, higher = loss <= self.best_loss, accuracy >= self.best_accuracy
        keep = {
            "last": False,
            "loss": loss < self.best_loss,
            "accuracy": accuracy > self.best_accuracy,
            "joint": lower and higher,
            "ndcg": accuracy > self.best_accuracy,
        }[self.training.select]
        improved = {"joint": lower or higher, "accuracy": accuracy > self.best_accuracy}.get(
            self.training.select, loss < self.best_loss
        )
        self.best_loss = min(self.best_loss, loss)
        self.best_accuracy = max(self.best_accuracy, accuracy)
        if keep:
            self.state = copy.deepcopy(model.state_dict())
        self.waited = 0 if improved else self.waited + self.training.validate_every
        patience = self.training.patience
        return patience is not None and self.waited >= patience

    def restore(self, model: GNN) -> None:
        """Put the kept parameters back."""
        if self.state is not None:
            model.load_state_dict(self.state)
