"""What attacks on gradients share: the gradient, checked, and the model it was computed with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from graphsec.attacks.base import Attack
from graphsec.game import EdgeGradients, Gradients, GraphGradients, NeighbourhoodGradients
from graphsec.game.edge_gradients import roots_of
from graphsec.graph import Graph
from graphsec.models.base import GNN
from graphsec.ops import Adj
from graphsec.predict import Predictor
from graphsec.readout import Readout
from graphsec.threat import Access, Timing, View
from graphsec.train import Release


@dataclass(frozen=True, eq=False)
class Local:
    """Local steps of plain SGD, whose sum left training in the place of a gradient.

    Attributes:
        steps: How many.
        lr: Their learning rate.
        decay: Weight decay by parameter.
    """

    steps: int
    lr: float
    decay: dict[str, float]

    def gradient(self, update: dict[str, Tensor], model: GNN) -> dict[str, Tensor]:
        """The mean gradient of the steps: exact of one step, else up to how far decay moved."""
        weights = dict(model.named_parameters())
        return {
            name: -moved / (self.lr * self.steps) - self.decay[name] * weights[name].detach()
            for name, moved in update.items()
        }


@dataclass(frozen=True, eq=False)
class Moment:
    """One thing that left training.

    Attributes:
        sent: A gradient or, with local steps, a difference of weights, by parameter.
        gradient: The gradient, or what the difference says of the mean one.
        predictor: The model as it was before.
    """

    sent: dict[str, Tensor]
    gradient: dict[str, Tensor]
    predictor: Predictor


Rules = Gradients | GraphGradients | EdgeGradients | NeighbourhoodGradients


@dataclass(frozen=True, eq=False)
class Leak:
    """Gradients that left training, of one step or of several after each other.

    Attributes:
        roots: (k,) nodes whose mean loss they are the gradients of; of whole graphs, their sizes;
            of whole neighbourhoods, −1.
        moments: What left, the step in question first; finite, and of the parameters' shapes.
        rules: What is private.
        classes: Number of classes.
        local: The local steps between one release and the next; None of gradients.
    """

    roots: Tensor
    moments: tuple[Moment, ...]
    rules: Rules
    classes: int
    local: Local | None = None

    @property
    def gradient(self) -> dict[str, Tensor]:
        """The gradient in question, by parameter."""
        return self.moments[0].gradient

    @property
    def predictor(self) -> Predictor:
        """The model at the step in question."""
        return self.moments[0].predictor

    @property
    def defense(self) -> Any:
        """The defense as attackers know it; None of a wrapped model."""
        origin = self.predictor.origin
        return None if origin is None else origin.defense

    @property
    def secrets(self) -> list[str]:
        """Names of the model's buffers that only the trainer has."""
        return [
            f"{where}.{name}" if where else name
            for where, module in self.predictor.model.named_modules()
            for name in getattr(module, "secrets", ())
        ]

    def within(self, adj: Adj) -> Adj:
        """What the step saw of the sanitised adjacency."""
        seen: Adj = adj if self.defense is None else self.defense.within(adj, self.roots)
        return seen

    @property
    def readout(self) -> Readout:
        """How the answer about a whole graph is read off its nodes."""
        origin = self.predictor.origin
        return "mean" if origin is None else origin.recipe.training.readout

    def hidden(self, known: Graph, roots: Tensor | None = None) -> Tensor:
        """Nodes (k,) whose features are private, in the game about them; of some of the roots."""
        assert isinstance(self.rules, Gradients)
        return self.rules.hidden(known, self.roots if roots is None else roots)

    @property
    def last_bias(self) -> Tensor:
        """(classes,) gradient of the bias that is added to the logits.

        Raises:
            ValueError: The model has none.
        """
        shapes = [name for name, g in self.gradient.items() if g.shape == (self.classes,)]
        if not shapes or self.secrets:
            model = type(self.predictor.model).__name__
            raise ValueError(
                f"labels are read off the bias of the logits, a parameter of shape "
                f"({self.classes},); {model} has none"
            )
        return self.gradient[shapes[-1]]

    def counts(self) -> Tensor | None:
        """``label_counts``; None where a secret of the model hides which class is which."""
        return None if self.secrets else label_counts(self)

    def labels(self, counts: Tensor | None) -> Tensor | None:
        """(1,) the label of a single root; None of several, which counts don't tell apart."""
        single = counts is not None and len(self.roots) == 1
        return counts.argmax().unsqueeze(0) if single else None  # type: ignore[union-attr]


@dataclass(frozen=True, kw_only=True)
class LeakageAttack(Attack):
    """Base of attacks on the gradient of one step."""

    game: ClassVar[str] = "gradients"
    timing: ClassVar[Timing] = "inference"

    @property
    def needs(self) -> Access:
        """Gradients of training, and with them the weights that they are computed at."""
        return Access.GRADIENTS

    def leak(self, view: View, rounds: int = 1) -> Leak:
        """The gradient in question, and those of the steps after it.

        Args:
            view: Of the attacker.
            rounds: How many steps to look at.

        Raises:
            TypeError: The rules are those of another game.
            ValueError: One did not leave training, does not fit the model or is not finite, or
                the steps were not on all roots.
        """
        rules = view.rules
        if rules.name != self.game or not isinstance(rules, Rules):
            raise TypeError(
                f"attack {self.name!r} plays the game {self.game!r}, not {rules.name!r}"
            )
        if view.question is None:
            raise ValueError(f"attack {self.name!r}: pass question=secret.question, the roots")
        sent = {r.round: r for r in view.releases() if r.kind in ("gradient", "update")}
        wanted = range(rules.step, rules.step + rounds)
        missing = [step for step in wanted if step not in sent]
        if missing:
            raise ValueError(
                f"attack {self.name!r}: training.expose must be ≥ {wanted[-1] + 1}, and training "
                f"at least as long, for the gradient of step {missing[0]} to leave it"
            )
        found = [_moment(self.name, view, sent[step]) for step in wanted]
        predictor = found[0][1]
        local = _local(predictor) if sent[rules.step].kind == "update" else None
        classes = predictor.sizes[2] if predictor.sizes else view.known.num_classes
        moments = tuple(
            Moment(each, each if local is None else local.gradient(each, at.model), at)
            for each, at in found
        )
        roots = view.question
        if isinstance(rules, EdgeGradients):
            roots = roots_of(roots, view.known.num_nodes)
        return Leak(roots, moments, rules, classes, local)


def _moment(name: str, view: View, release: Release) -> tuple[dict[str, Tensor], Predictor]:
    """What was sent, and the model it was sent for; both checked."""
    predictor = view.moment(release)
    _check_steps(name, predictor)
    gradient = {k: v for k, v in release.tensors.items() if not k.startswith("parameter:")}
    _check(name, gradient, predictor)
    return gradient, predictor


def _local(predictor: Predictor) -> Local:
    """The local steps, which are part of the recipe and so public.

    Raises:
        ValueError: The recipe is not known, or has none.
    """
    training = None if predictor.origin is None else predictor.origin.recipe.training
    if training is None or training.local_steps is None:
        raise ValueError("an update left training, but its recipe has no training.local_steps")
    model = predictor.model
    decay = {
        id(parameter): float(group["weight_decay"])
        for group in model.groups(training.weight_decay, training.decay)
        for parameter in group["params"]
    }
    by_name = {name: decay.get(id(p), 0.0) for name, p in model.named_parameters()}
    return Local(training.local_steps, training.lr, by_name)


def _check_steps(name: str, predictor: Predictor) -> None:
    if predictor.origin is None:
        return
    reason = predictor.origin.defense.own_steps()
    if reason is not None:
        raise ValueError(
            f"attack {name!r} is on a step of all roots at once: defense "
            f"{predictor.origin.defense.name!r} {reason}"
        )
    training = predictor.origin.recipe.training
    for field in ("batch_size", "sampler"):
        value = getattr(training, field)
        if value is not None:
            raise ValueError(
                f"attack {name!r} is on a step of all roots at once: training.{field} must be "
                f"None, got {value!r}"
            )


def _check(name: str, gradient: dict[str, Tensor], predictor: Predictor) -> None:
    wanted = {key: tuple(p.shape) for key, p in predictor.model.named_parameters()}
    if not gradient:
        raise ValueError(f"attack {name!r}: the release holds no gradient")
    for key, value in gradient.items():
        if tuple(value.shape) != wanted.get(key):
            raise ValueError(
                f"attack {name!r}: the gradient of {key!r} must have the parameter's shape "
                f"{wanted.get(key, 'but there is no such parameter')}, got {tuple(value.shape)}"
            )
        if not torch.isfinite(value).all():
            raise ValueError(
                f"attack {name!r}: the gradient of {key!r} must be finite, found NaN or infinity"
            )
    for key, parameter in predictor.model.named_parameters():
        if not torch.isfinite(parameter).all():
            raise ValueError(
                f"attack {name!r}: parameter {key!r} must be finite, found NaN or infinity"
            )


def label_counts(leak: Leak) -> Tensor:
    """(classes,) how many roots have each label, from the gradient of the last bias.

    The gradient is the mean over k roots of p − onehot(y). Of a single root, its one negative
    entry is the label. Of several, the mean answer p̄ − gradient is n_c / k; p̄ is taken for the
    model's answer about a node without features or neighbours, and what is found is rounded to
    whole numbers that add up to k (largest remainders).
    """
    g, k = leak.last_bias.double(), len(leak.roots)
    if k == 1:
        return torch.nn.functional.one_hot(g.argmin(), leak.classes)
    return rounded(k * (_blank_answer(leak) - g), k)


def rounded(shares: Tensor, total: int) -> Tensor:
    """Whole numbers ≥ 0 near ``shares`` that add up to ``total``."""
    wanted = shares.clamp(min=0)
    if float(wanted.sum()) == 0:
        wanted = torch.ones_like(wanted)
    wanted = wanted * (total / float(wanted.sum()))
    whole = wanted.floor().long()
    short = total - int(whole.sum())
    if short > 0:
        whole[(wanted - whole).topk(min(short, len(whole))).indices] += 1
    return whole


@torch.no_grad()
def _blank_answer(leak: Leak) -> Tensor:
    """(classes,) probabilities of a node without features or neighbours."""
    width = leak.predictor.sizes[1] if leak.predictor.sizes else 0
    blank = Graph.from_edges([[], []], 1, x=torch.zeros(1, width))
    assert blank.x is not None
    logits: Tensor = leak.predictor.model(blank.x, blank.adj)[0]
    return logits.double().softmax(0)
