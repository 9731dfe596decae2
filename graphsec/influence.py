"""How well could a gradient be inverted? Predicted for every node, without an attack.

A step on node v leaves the trainer as g + δ, where g = ∂L/∂θ and δ is what a defense did to it.
Who looks for features x' whose gradient is the one seen moves, to first order, by (JJᵀ)⁻¹Jδ, with
J = ∂²L/∂x∂θ (features × parameters). Its length is the inversion influence function (I²F): large
means that reconstructions are far off, and the node safe.

**The bound, and what "never on its wrong side" means.** Let A = JJᵀ + εI with ε > 0, c = Jδ and
λ = λ_max(JJᵀ). A is symmetric and its largest eigenvalue is λ + ε, so ‖c‖ = ‖A A⁻¹c‖ ≤
(λ + ε) ‖A⁻¹c‖, which is

    ‖A⁻¹c‖ ≥ ‖c‖ / (λ + ε).

It is an equality where c is a top eigenvector. With ε = 0 on the right alone it would be wrong
there: ‖c‖ / λ > ‖c‖ / (λ + ε).

What is computed is a vector b near A⁻¹c and a λ̂ near λ, and the same must hold of those. With the
residual r = c − Ab, formed anew at the end, ‖Ab‖ ≥ ‖c‖ − ‖r‖. So with

    Λ = max(λ̂ + ε, ‖Ab‖ / ‖b‖),    bound = max(‖c‖ − ‖r‖, 0) / Λ

there is ‖b‖ ≥ ‖Ab‖ / Λ ≥ bound, for every b and λ̂ whatever: neither the conjugate gradients nor the
eigenvalue need have converged. Λ ≤ λ + ε but for λ̂'s own error bar, so that the bound is no weaker
than the first one, less the residual. Of the exact value, ``|‖b‖ − ‖A⁻¹c‖| ≤ ‖r‖ / ε``.

Source: Zhang, Hong, Zhou & Li (I²F), Understanding Deep Gradient Leakage via Inversion Influence
Functions, NeurIPS 2023: J, the regularised inverse and the bound as in reference notes on its code,
which descends by gradient where this solves by conjugate gradients; the proofs here are ours.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from graphsec.defenses.base import build
from graphsec.game import Gradients
from graphsec.models.base import GNN, inputs
from graphsec.ops import Adj, Features
from graphsec.rng import Rng
from graphsec.sampling import sample, take

if TYPE_CHECKING:
    from graphsec.graph import Graph
    from graphsec.predict import Predictor

Product = Callable[[Tensor], Tensor]
Change = Callable[[list[Tensor]], list[Tensor]]
_WHO = "leakage_risk"
_ROUNDING = 1 - 1e-12  # norms of a million float64 numbers are good to better than that


@dataclass(frozen=True, kw_only=True)
class LeakageRisk:
    """What is predicted of each root, with all that the prediction rests on; all (k,), float64.

    Attributes:
        roots: Nodes, each the only one of a step of its own.
        error: ‖(JJᵀ + εI)⁻¹Jδ‖, the length by which reconstructed features are off. In units of
            the features; large = safe.
        relative: The same over the norm of the features looked for: what
            ``metrics.relative_error`` measures; infinite where they are all 0.
        bound: ``error`` is at least that (see the module).
        pushed: ‖Jδ‖.
        top: λ_max(JJᵀ), by Lanczos' iteration.
        ridge: ε.
        residual: ‖c − Ab‖ / ‖c‖ that the solver ended with.
        products: Products with J and Jᵀ, in all.
    """

    roots: Tensor
    error: Tensor
    relative: Tensor
    bound: Tensor
    pushed: Tensor
    top: Tensor
    ridge: Tensor
    residual: Tensor
    products: Tensor


@dataclass(frozen=True, eq=False)
class Step:
    """A step on one root, in float64 and on no more than its neighbourhood.

    Attributes:
        model: In evaluation mode.
        x: (m, d) features of the neighbourhood.
        rows: (k,) rows of ``x`` that are private.
        adj: The neighbourhood.
        root: (1,) row of the model's output that is the root's.
        y: (1,) its label.
    """

    model: GNN
    x: Tensor
    rows: Tensor
    adj: Adj
    root: Tensor
    y: Tensor

    @property
    def truth(self) -> Tensor:
        """(k, d) the private features."""
        return self.x[self.rows]

    def loss(self, z: Tensor) -> Tensor:
        """What the loss would be with private features z (k, d)."""
        logits = self.model(self.x.index_copy(0, self.rows, z), self.adj)
        return F.cross_entropy(logits[self.root], self.y)

    def gradients(self, z: Tensor) -> Sequence[Tensor]:
        """What its gradients would be, in the order of the parameters; differentiable in z."""
        return torch.autograd.grad(
            self.loss(z), list(self.model.parameters()), create_graph=True, materialize_grads=True
        )


class Steps:
    """Steps on single roots of a graph, by number of the node.

    Args:
        predictor: The model at the weights of the steps; a copy of it goes to float64.
        graph: The graph, with true features and labels.
        private: Features are private of all nodes within so many edges of the root.

    Raises:
        ValueError: The model's gradients can't be differentiated again.
    """

    def __init__(self, predictor: Predictor, graph: Graph, private: int = 0) -> None:
        if not predictor.model.capabilities.second_order:
            raise ValueError(
                f"{_WHO} differentiates gradients again, which "
                f"{type(predictor.model).__name__} does not allow"
            )
        x, adj = predictor.sanitise(inputs(graph), graph.adj, predictor.how)
        self.x: Tensor | Features = x
        self.adj = adj.pruned()
        self.model = copy.deepcopy(predictor.model).double().requires_grad_()
        self.graph, self.rules = graph, Gradients(private=private)

    def __getitem__(self, node: int) -> Step:
        """The step on a node, cut out of the graph where the model allows it."""
        root, adj = torch.tensor([node]), self.adj
        hidden = self.rules.hidden(self.graph, root)
        nodes, place = torch.arange(adj.num_nodes), root
        if self.model.layers is not None and self.model.capabilities.sampled:
            nodes, adj = sample(adj, root, (-1,) * self.model.layers, Rng(0))  # all: draws nothing
            place = torch.zeros(1, dtype=torch.int64)
        x, rows = take(self.x, nodes).to_dense().double(), torch.isin(nodes, hidden).nonzero()
        assert self.graph.y is not None
        return Step(self.model, x, rows.ravel(), adj, place, self.graph.y[root])


class MixedHessian:
    """J = ∂²L/∂x∂θ of one step, never formed: products with it and its transpose.

    The graph of both gradients is made once, and a product is one pass back through it: L is a
    scalar, so Jv = ∂⟨∂L/∂θ, v⟩/∂x and Jᵀu = ∂⟨∂L/∂x, u⟩/∂θ. No more than second derivatives are
    asked of a model.

    Args:
        step: The step; J is taken at its true features.
    """

    def __init__(self, step: Step) -> None:
        self.parameters = list(step.model.parameters())
        self.z = step.truth.clone().requires_grad_()
        with torch.enable_grad():
            loss = step.loss(self.z)
            grads = torch.autograd.grad(
                loss, [self.z, *self.parameters], create_graph=True, materialize_grads=True
            )
        self.by_features, self.gradient = grads[0], list(grads[1:])
        self.products = 0

    @property
    def size(self) -> int:
        """Number of private features, rows of J."""
        return self.z.numel()

    def push(self, delta: Sequence[Tensor]) -> Tensor:
        """Jδ (k·d,) of a change of the gradient, shaped as the parameters are."""
        self.products += 1
        moving = [(g, d) for g, d in zip(self.gradient, delta, strict=True) if g.requires_grad]
        if not moving:
            return torch.zeros(self.size, dtype=torch.float64)
        of, along = zip(*moving, strict=True)
        (out,) = torch.autograd.grad(of, self.z, along, retain_graph=True, materialize_grads=True)
        return out.flatten()

    def pull(self, u: Tensor) -> list[Tensor]:
        """Jᵀu, shaped as the parameters are, of u (k·d,)."""
        self.products += 1
        if not self.by_features.requires_grad:
            return [torch.zeros_like(p) for p in self.parameters]
        return list(
            torch.autograd.grad(
                self.by_features, self.parameters, u.view_as(self.z), retain_graph=True,
                materialize_grads=True,
            )
        )  # fmt: skip

    def gram(self, u: Tensor) -> Tensor:
        """JJᵀu."""
        return self.push(self.pull(u))

    def dense(self) -> Tensor:
        """(k·d, parameters) J itself, a row a product: for small problems."""
        rows = [self.pull(row) for row in torch.eye(self.size, dtype=torch.float64)]
        return torch.stack([torch.cat([part.flatten() for part in row]) for row in rows])


def top_eigenvalue(
    product: Product, start: Tensor, *, tolerance: float = 5e-2, steps: int = 100
) -> tuple[float, float]:
    """The largest eigenvalue of a positive semidefinite matrix, by Lanczos' iteration.

    Args:
        product: u → Au.
        start: (n,) any vector that is not 0; a random one is orthogonal to no eigenvector.
        tolerance: Where to stop: length of the residual over the eigenvalue.
        steps: Most products.

    Returns:
        (θ, residual): θ is at most the largest eigenvalue, and some eigenvalue is within the
        residual of it.
    """
    basis = [start / start.norm()]
    diagonal: list[float] = []
    beside: list[float] = []
    value, residual = 0.0, 0.0
    for _ in range(min(steps, len(start))):
        w = product(basis[-1])
        diagonal.append(float(w @ basis[-1]))
        q = torch.stack(basis)
        for _ in range(2):  # once more: rounding would bring old directions back
            w = w - q.T @ (q @ w)
        matrix = np.diag(diagonal) + np.diag(beside, 1) + np.diag(beside, -1)
        values, vectors = np.linalg.eigh(matrix)
        length = float(w.norm())
        value, residual = float(values[-1]), length * abs(float(vectors[-1, -1]))
        if residual <= tolerance * value or length <= 1e-14 * max(value, 1e-300):
            break
        beside.append(length)
        basis.append(w / length)
    return max(value, 0.0), residual


def conjugate_gradients(
    product: Product, c: Tensor, *, tolerance: float = 1e-8, steps: int = 1000
) -> Tensor:
    """B with Ab = c, for positive definite A (Hestenes & Stiefel 1952).

    Args:
        product: u → Au.
        c: (n,).
        tolerance: Where to stop: ‖c − Ab‖ ≤ tolerance · ‖c‖, as the recursion has it.
        steps: Most products.

    Returns:
        (n,); of the steps taken, the last.
    """
    b = torch.zeros_like(c)
    r, p = c.clone(), c.clone()
    squared = float(r @ r)
    goal = tolerance**2 * squared
    for _ in range(steps):
        if squared <= goal:
            break
        ap = product(p)
        alpha = squared / float(p @ ap)
        b += alpha * p
        r -= alpha * ap
        squared, before = float(r @ r), squared
        p = r + (squared / before) * p
    return b


def leakage_risk(
    predictor: Predictor,
    graph: Graph,
    roots: Tensor | Sequence[int],
    *,
    perturbation: Any = None,
    private: int = 0,
    ridge: float = 1e-6,
    tolerance: float = 1e-6,
    steps: int = 1000,
    seed: int = 0,
) -> LeakageRisk:
    """How far off reconstructions from each root's gradient would be, without attacking.

    Every root is taken for the only one of a step of its own, at the predictor's weights (those of
    another moment: ``predictor.at(release)``). The attacker knows the weights, the label, the edges
    and all features that are not private.

    Args:
        predictor: The model and what stands before it.
        graph: The graph that it is trained on, with the true features and labels.
        roots: (k,) nodes.
        perturbation: What is done to a gradient before it leaves: a number, the standard deviation
            of Gaussian noise on each entry; tensors by name of the parameter, the change δ itself,
            the same for all roots; or a defense (name, spec or list of them) with its release
            step. Default: the predictor's own defense.
        private: Features are private of all nodes within so many edges of the root.
        ridge: ε over λ_max(JJᵀ): directions of features that the gradient tells less of than that
            count as not reconstructed at all. Larger is faster.
        tolerance: Relative residual at which the solver stops.
        steps: Most steps of the solver a root; each is two products.
        seed: Seed of what the perturbation draws, for each node a stream of its own.

    Raises:
        ValueError: Roots out of range or without labels; a perturbation with names or shapes that
            are not the parameters', or not finite; features or gradients that are not finite; a
            model whose gradients can't be differentiated again.
    """
    nodes = _checked(graph, torch.as_tensor(roots), ridge, tolerance, steps)
    made = Steps(predictor, graph, private)
    change = _change(perturbation, predictor, dict(made.model.named_parameters()))
    found: list[tuple[float, ...]] = []
    for node in nodes.tolist():
        step = made[node]
        _finite(f"features that node {node} is answered from", [step.x])
        matrix = MixedHessian(step)
        _finite(f"the gradient of node {node}", matrix.gradient)
        stream = Rng(seed)["influence"][node]
        with stream["release"].scope():
            delta = change([g.detach() for g in matrix.gradient])
        _finite(f"the perturbation of node {node}", delta)
        solved = _solved(matrix, delta, stream["start"], ridge, tolerance, steps)
        found.append((*solved, float(step.truth.norm())))
    columns = torch.tensor(found, dtype=torch.float64).reshape(len(nodes), 8).unbind(1)
    error, bound, pushed, top, epsilon, residual, products, size = columns
    return LeakageRisk(
        roots=nodes, error=error, relative=torch.where(error > 0, error / size, error),
        bound=bound, pushed=pushed, top=top, ridge=epsilon, residual=residual,
        products=products.long(),
    )  # fmt: skip


def _solved(
    matrix: MixedHessian, delta: Sequence[Tensor], rng: Rng, ridge: float, tolerance: float,
    steps: int,
) -> tuple[float, ...]:  # fmt: skip
    """(error, bound, ‖Jδ‖, λ, ε, relative residual, products) of one root."""
    start = torch.randn(matrix.size, generator=rng.torch(), dtype=torch.float64)
    top, off = top_eigenvalue(matrix.gram, start)
    epsilon = ridge * top
    c = matrix.push(delta)
    pushed = float(c.norm())
    if pushed == 0 or epsilon == 0:  # nothing was changed, or nothing can be told
        nothing = 0.0 if epsilon > 0 else float("inf")
        return nothing, 0.0, pushed, top, epsilon, 0.0, float(matrix.products)

    def product(u: Tensor) -> Tensor:
        return matrix.gram(u) + epsilon * u

    unit = c / pushed  # squares of tiny numbers would vanish
    b = conjugate_gradients(product, unit, tolerance=tolerance, steps=steps)
    ab = product(b)
    error, residual = float(b.norm()), float((unit - ab).norm())
    largest = max(top + off + epsilon, float(ab.norm()) / error)
    bound = _ROUNDING * max(1 - residual, 0.0) / largest
    products = float(matrix.products)
    return pushed * error, pushed * bound, pushed, top, epsilon, residual, products


def _change(perturbation: Any, predictor: Predictor, names: Mapping[str, Tensor]) -> Change:
    """Gradients as they are → δ, what is done to them."""
    if perturbation is None:
        if predictor.origin is None:
            raise ValueError(f"{_WHO}: a wrapped model has no defense: perturbation must be given")
        release = predictor.origin.defense.release
    elif isinstance(perturbation, bool):
        raise ValueError(f"{_WHO}: perturbation must be a number, tensors or a defense, got a bool")
    elif isinstance(perturbation, int | float):
        if not 0 <= perturbation < float("inf"):
            raise ValueError(f"{_WHO}: perturbation must be finite and ≥ 0, got {perturbation}")
        std = float(perturbation)
        return lambda gradient: [std * torch.randn_like(g) for g in gradient]
    elif isinstance(perturbation, Mapping) and "name" not in perturbation:
        return _given(perturbation, names)
    else:
        release = build(perturbation).release
    return lambda gradient: [a - g for a, g in zip(release(gradient), gradient, strict=True)]


def _given(delta: Mapping[str, Tensor], names: Mapping[str, Tensor]) -> Change:
    if set(delta) != set(names):
        raise ValueError(
            f"{_WHO}: perturbation must name the parameters {sorted(names)}, found {sorted(delta)}"
        )
    for name, parameter in names.items():
        if delta[name].shape != parameter.shape:
            raise ValueError(
                f"{_WHO}: perturbation of {name!r} must have the parameter's shape "
                f"{tuple(parameter.shape)}, got {tuple(delta[name].shape)}"
            )
    fixed = [delta[name].double() for name in names]
    return lambda gradient: fixed


def _finite(what: str, tensors: Sequence[Tensor]) -> None:
    if not all(bool(torch.isfinite(each).all()) for each in tensors):
        raise ValueError(f"{_WHO}: {what} must be finite, found NaN or infinity")


def _checked(graph: Graph, roots: Tensor, ridge: float, tolerance: float, steps: int) -> Tensor:
    if graph.y is None or graph.task != "classification":
        raise ValueError(f"{_WHO} needs a classification, found task {graph.task!r}")
    if roots.dim() != 1 or not len(roots) or roots.dtype != torch.int64:
        raise ValueError(
            f"{_WHO}: roots must be (k,) integers, k ≥ 1, got {tuple(roots.shape)} {roots.dtype}"
        )
    if not 0 <= int(roots.min()) <= int(roots.max()) < graph.num_nodes:
        raise ValueError(
            f"{_WHO}: roots must lie in 0…{graph.num_nodes - 1}, found "
            f"{int(roots.min())}…{int(roots.max())}"
        )
    unknown = roots[graph.y[roots] < 0]
    if len(unknown):
        raise ValueError(f"{_WHO}: roots must have labels, node {int(unknown[0])} has none")
    for name, value in (("ridge", ridge), ("tolerance", tolerance), ("steps", steps)):
        if not 0 < value < float("inf"):
            raise ValueError(f"{_WHO}: {name} must be > 0, got {value}")
    return roots


__all__ = [
    "LeakageRisk", "MixedHessian", "Step", "Steps", "conjugate_gradients", "leakage_risk",
    "top_eigenvalue",
]  # fmt: skip
