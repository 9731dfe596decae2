"""What attacks on gradients share: the gradient, checked, and the model it was computed with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from graphsec.attacks.base import Attack
from graphsec.game import Gradients
from graphsec.graph import Graph
from graphsec.predict import Predictor
from graphsec.threat import Access, Timing, View


@dataclass(frozen=True, eq=False)
class Leak:
    """A gradient that left training.

    Attributes:
        roots: (k,) nodes whose mean loss it is the gradient of.
        gradient: By name of the parameter; finite, and of the parameter's shape.
        predictor: The model as it was then.
        rules: What is private.
        classes: Number of classes.
    """

    roots: Tensor
    gradient: dict[str, Tensor]
    predictor: Predictor
    rules: Gradients
    classes: int

    @property
    def last_bias(self) -> Tensor:
        """(classes,) gradient of the bias that is added to the logits.

        Raises:
            ValueError: The model has none.
        """
        shapes = [name for name, g in self.gradient.items() if g.shape == (self.classes,)]
        if not shapes:
            model = type(self.predictor.model).__name__
            raise ValueError(
                f"labels are read off the bias of the logits, a parameter of shape "
                f"({self.classes},); {model} has none"
            )
        return self.gradient[shapes[-1]]

    def labels(self, counts: Tensor) -> Tensor | None:
        """(1,) the label of a single root; None of several, which counts don't tell apart."""
        return counts.argmax().unsqueeze(0) if len(self.roots) == 1 else None


@dataclass(frozen=True, kw_only=True)
class LeakageAttack(Attack):
    """Base of attacks on the gradient of one step."""

    game: ClassVar[str] = "gradients"
    timing: ClassVar[Timing] = "inference"

    @property
    def needs(self) -> Access:
        """Gradients of training, and with them the weights that they are computed at."""
        return Access.GRADIENTS

    def leak(self, view: View) -> Leak:
        """The gradient in question.

        Raises:
            TypeError: The rules are those of another game.
            ValueError: It did not leave training, does not fit the model or is not finite, or
                the step was not on all roots.
        """
        rules = view.rules
        if not isinstance(rules, Gradients):
            raise TypeError(f"attack {self.name!r} plays the game 'gradients', not {rules.name!r}")
        if view.question is None:
            raise ValueError(f"attack {self.name!r}: pass question=secret.question, the roots")
        sent = [r for r in view.releases() if r.kind == "gradient" and r.round == rules.step]
        if not sent:
            raise ValueError(
                f"attack {self.name!r}: training.expose must be ≥ {rules.step + 1} for the "
                f"gradient of step {rules.step} to leave it"
            )
        predictor = view.moment(sent[0])
        _check_steps(self.name, predictor)
        gradient = {k: v for k, v in sent[0].tensors.items() if not k.startswith("parameter:")}
        _check(self.name, gradient, predictor)
        classes = predictor.sizes[2] if predictor.sizes else view.known.num_classes
        return Leak(view.question, gradient, predictor, rules, classes)


def _check_steps(name: str, predictor: Predictor) -> None:
    training = None if predictor.origin is None else predictor.origin.recipe.training
    if training is None:
        return
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
