"""Private steps: draw roots, sum clipped gradients, add noise, update, and say what it cost."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _NormBase

from graphsec.dp.accountant import Ledger
from graphsec.dp.gradients import SHARED, Clip, beyond_roots, clipped_sum, looped_sum
from graphsec.dp.recorder import UnknownUseError
from graphsec.dp.roots import Roots
from graphsec.models.base import GNN
from graphsec.ops import Adj, Features, propagate
from graphsec.sampling import subtrees, take

log = logging.getLogger(__name__)

COPIES = 15_000  # of nodes, about, that are worked on at once: memory, and caches


class PrivateSteps:
    """An optimiser whose steps are Gaussian mechanisms; an event of the ledger each.

    A step draws roots, sums their clipped gradients, adds noise of standard deviation
    ``noise_multiplier · roots.sensitivity · clip.norm`` to every number of the sum, divides by the
    public ``roots.batch`` and hands the result to the optimiser, for which it is a gradient like
    any other. Its cost is in the ledger before the update is made. A step without roots is a step:
    of noise alone. Other private optimisers override ``noisy`` and ``event``.

    Noise is drawn and added in double precision, then rounded. That real numbers are not real is
    outside of the guarantee (Mironov, CCS 2012), as is a generator that could be told from chance.

    Args:
        model: Trained in place; runs on subtrees, mixes no nodes but by its layers.
        x: (n, d) features.
        y: (n,) labels.
        task: "classification" or "regression".
        roots: How roots are drawn, and the graph they see.
        clip: What a root's gradient is held to.
        noise_multiplier: σ; 0 is training without noise, at ε = ∞.
        optimizer: Makes updates from gradients.
        generator: Of samples and noise; never restarted within a training.
        ledger: Takes note of what is spent.

    Raises:
        ValueError: The model can't be trained on subtrees.
    """

    def __init__(
        self, model: GNN, x: Tensor | Features, y: Tensor, task: str, *, roots: Roots, clip: Clip,
        noise_multiplier: float, optimizer: torch.optim.Optimizer, generator: np.random.Generator,
        ledger: Ledger,
    ) -> None:  # fmt: skip
        check_model(model)
        self.model, self.x, self.y, self.task = model, x, y, task
        self.roots, self.clip, self.noise_multiplier = roots, clip, noise_multiplier
        self.optimizer, self.generator, self.ledger = optimizer, generator, ledger
        self._looped = False
        self._copies = walks(roots.adj, roots.hops)

    @property
    def event(self) -> Any:
        """What one step spends."""
        if self.noise_multiplier == 0:
            import dp_accounting

            return dp_accounting.NonPrivateDpEvent()
        return self.roots.event(self.noise_multiplier)

    def step(self, before_update: Callable[[], None] | None = None) -> None:
        """One step; ``before_update`` may look at, or change, the noisy gradients."""
        self.ledger.spend(self.event)
        self.model.train()
        total = self.total(self.roots.draw(self.generator))
        for name, parameter in self.model.named_parameters():
            if name in total:
                parameter.grad = self.noisy(total[name]) / self.roots.batch
        if before_update is not None:
            before_update()
        self.optimizer.step()

    def noisy(self, total: Tensor) -> Tensor:
        """The sum (any shape) with fresh noise."""
        scale = self.noise_multiplier * self.roots.sensitivity * self.clip.norm
        noise = torch.from_numpy(scale * self.generator.standard_normal(tuple(total.shape)))
        return (total.double() + noise).to(total.dtype)

    def total(self, roots: Tensor) -> dict[str, Tensor]:
        """Σ of the roots' clipped gradients, by parameter, without noise."""
        trained = {n: p for n, p in self.model.named_parameters() if p.requires_grad}
        sums = {name: torch.zeros_like(p).detach() for name, p in trained.items()}
        for some in self._parts(roots):
            for name, value in self._sum(some).items():
                sums[name] += value
        return sums

    def _sum(self, roots: Tensor) -> dict[str, Tensor]:
        if not self._looped:
            try:
                return clipped_sum(self.model, *self._seen(roots), self.task, self.clip)[0]
            except UnknownUseError as error:
                log.info("root by root, which is slow: %s", error)
                self._looped = True
        alone = (self._seen(root) for root in roots.split(1))  # type: ignore[no-untyped-call]
        return looped_sum(self.model, alone, self.task, self.clip)[0]

    def _seen(self, roots: Tensor) -> tuple[Tensor | Features, Adj, Tensor]:
        nodes, adj = subtrees(self.roots.adj, roots, self.roots.hops)
        return take(self.x, nodes), adj, self.y[roots]

    def _parts(self, roots: Tensor) -> Iterator[Tensor]:
        """The roots in parts of about ``COPIES`` copies each."""
        part = self._copies[roots].cumsum(0).div(COPIES, rounding_mode="floor")
        for which in part.unique():  # type: ignore[no-untyped-call]
            yield roots[part == which]

    def state_dict(self) -> dict[str, Any]:
        """All that a resumed training needs: it goes on as if it had not been interrupted.

        The state of the generators is secret: with it noise can be taken off again.
        """
        return {
            "model": {k: v.clone() for k, v in self.model.state_dict().items()},
            "optimizer": copy.deepcopy(self.optimizer.state_dict()),
            "generator": self.generator.bit_generator.state,
            "dropout": torch.get_rng_state(),
            "ledger": self.ledger.state,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from ``state_dict``; torch's global generator is set too, for dropout."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.generator.bit_generator.state = state["generator"]
        torch.set_rng_state(state["dropout"])
        self.ledger = Ledger.resumed(state["ledger"])


def check_model(model: GNN) -> None:
    """Refuse a model whose roots' gradients would depend on more than their subtrees.

    Raises:
        ValueError: With the model's name and the capability that it has or lacks.
    """
    reason = beyond_roots(type(model))
    if reason is None and any(isinstance(part, _NormBase) for part in model.modules()):
        reason = SHARED.format(type(model).__name__)
    if reason is None and model.capabilities.uses_edges and model.layers is None:
        reason = f"{type(model).__name__} has no fixed number of hops, and so no subtrees"
    if reason is not None:
        raise ValueError(reason)


def walks(adj: Adj, hops: int) -> Tensor:
    """(n,) walks of at most so many steps from each node: at least the copies in its subtree."""
    plain = Adj(csr=adj.csr)
    count = torch.ones(adj.num_nodes, 1)
    for _ in range(hops):
        count = 1 + propagate(plain, count)
    return count.squeeze(1)
