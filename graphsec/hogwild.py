"""Asynchronous inference: nodes that update when they please, on what has reached them so far.

Partially asynchronous (Bertsekas & Tsitsiklis 1989, §7.1): with a bound B every node updates at
least once in B steps, and what it sees of a neighbour is less than B steps old. At B = 1 all is
synchronous.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from graphsec.models.base import GNN
from graphsec.models.implicit import Implicit
from graphsec.ops import CSR, Adj, Features
from graphsec.predict import Predictor
from graphsec.registry import Component, Range
from graphsec.rng import Rng
from graphsec.sampling import take


@dataclass(frozen=True, eq=False, kw_only=True)
class Answer:
    """What a network said in the end.

    Attributes:
        logits: (n, outputs); a node that never came to its last layer says zeros.
        alive: (n,) nodes that did not fail.
        steps: Steps until all was still.
        converged: Whether it was, before the steps ran out.
    """

    logits: Tensor
    alive: Tensor
    steps: int
    converged: bool


@dataclass(frozen=True, kw_only=True)
class Hogwild(Component):
    """Runs a model node by node on a random schedule.

    A node waits 1 … B steps between two updates, and sees each neighbour as it was 0 … B − 1
    steps ago (itself as it is); both are drawn afresh each time.

    *Implicit models* update their state until the residual of the nodes that still run has
    fallen by ``tolerance``. Where nodes compute parts of the residual for their neighbours
    (gradient messages of an energy), these are computed from a stale view, and arrive up to
    B − 1 steps late once more. *Layered models* make exactly one update a layer. A node's k-th
    update applies layer k to the newest state that has arrived from each neighbour and has the
    width that the layer takes; layers are not told apart otherwise. A neighbour of which nothing
    fitting has arrived counts as absent. Features are known to the neighbours from the start.

    Attributes:
        delay: B.
        fail: Share of the nodes that stop for good, at a random time; neighbours go on seeing
            their last state.
        late: Share of the nodes that start late, at a random time; until then an implicit state
            is zero, and a layered node is absent.
        steps: Most steps.
        tolerance: Residual, relative to that at the start, at which an implicit model is done.

    Source: Solodova et al., Graph Neural Networks Gone Hogwild, ICLR 2025, §3; the schedule's
    distributions are ours.
    """

    name: ClassVar[str] = "hogwild"
    kind: ClassVar[str] = "simulator"

    delay: Annotated[int, Field(ge=1, le=1000), Range(1, 20)] = 20
    fail: Annotated[float, Field(ge=0, le=1), Range(0, 0.5)] = 0.0
    late: Annotated[float, Field(ge=0, le=1), Range(0, 0.5)] = 0.0
    steps: Annotated[int, Field(ge=1)] = 50_000
    tolerance: Annotated[float, Field(gt=0, lt=1)] = 1e-6

    @torch.no_grad()
    def run(self, victim: GNN | Predictor, x: Tensor | Features, adj: Adj, rng: Rng) -> Answer:
        """The answers of a model, or of a predictor with its preprocessing.

        Args:
            victim: What is run; implicit, or with layers that run on samples.
            x: Features.
            adj: Adjacency without candidate pairs.
            rng: Stream of the schedule.

        Raises:
            TypeError: The model is neither implicit nor made of layers that run on samples.
            ValueError: There are candidate pairs.
        """
        if adj.block is not None:
            raise ValueError("adj must be without candidate pairs to be run asynchronously")
        if isinstance(victim, Predictor):
            x, adj = victim.sanitise(x, adj, victim.how)
        model = (victim.model if isinstance(victim, Predictor) else victim).eval()
        if isinstance(model, Implicit):
            return self._settled(model, x, adj, rng)
        if model.layers is None or not model.capabilities.sampled:
            raise TypeError(f"{type(model).__name__} has no layers that nodes could run alone")
        return self._layered(model, x, adj, rng)

    # -- implicit models ----------------------------------------------------------------------

    def _settled(self, model: Implicit, x: Tensor | Features, adj: Adj, rng: Rng) -> Answer:
        problem, given = model.problem(x, adj)
        tensors = [t.detach().double() for t in given]
        rate, entries = problem.rate(tensors), problem.entries
        row, col = problem.csr.coo
        clock = _Clock(self, problem.csr.num_rows, row == col, 10 * self.delay, rng)
        h = problem.origin(tensors)
        past = h.repeat(self.delay, 1, 1)
        mail: Tensor | None = None  # the latest gradient message at each entry, as it was lately
        goal = self.tolerance * float(problem.residual(h, *tensors).norm())
        for t, due in clock:
            past[t % self.delay] = h
            own, sent = problem.local(h, past[(t - clock.ages()) % self.delay, col], *tensors)
            if sent is not None:
                mail = torch.zeros_like(sent).repeat(self.delay, 1, 1) if mail is None else mail
                before = mail[(t - 1) % self.delay]
                mail[t % self.delay] = torch.where(due[row].unsqueeze(1), sent, before)
                place = torch.arange(len(row))
                own = own + entries.to_columns(mail[(t - clock.ages()) % self.delay, place])
            h = torch.where(due.unsqueeze(1), h - rate * own, h)
            if t >= clock.horizon and t % self.delay == 0:
                left = problem.residual(h, *tensors)[clock.alive]
                if float(left.norm()) <= goal:
                    return Answer(
                        logits=model.readout(h), alive=clock.alive, steps=t + 1, converged=True
                    )
        return Answer(logits=model.readout(h), alive=clock.alive, steps=self.steps, converged=False)

    # -- layered models -----------------------------------------------------------------------

    def _layered(self, model: GNN, x: Tensor | Features, adj: Adj, rng: Rng) -> Answer:
        layers = model.layers
        assert layers is not None
        merged, n = adj.merged(), adj.num_nodes
        row, col = merged.csr.coo
        clock = _Clock(self, n, row == col, layers * self.delay, rng)
        whole = _Copies(model, x, adj, merged)
        states: list[Tensor] = [s.new_zeros(s.shape) for s in model.hidden(x, adj)]
        widths = [-1, *(state.shape[1] for state in states)]  # features fit the first layer only
        done = torch.where(clock.start > 0, -1, 0)  # updates made; −1 is not there yet
        past = done.repeat(self.delay, 1)
        for t, due in clock:
            done = torch.where((done < 0) & (clock.start <= t), 0, done)
            past[t % self.delay] = done
            seen = past[(t - clock.ages()) % self.delay, col]
            made = done.clone()
            for k in range(layers):
                rows = (due & (done == k)).nonzero().ravel()
                if len(rows):
                    fits = [i for i, width in enumerate(widths) if width == widths[k]]
                    views, arrived = _newest(states, fits, seen, col)
                    inputs = None if k == 0 else torch.cat([states[k - 1], views])
                    states[k][rows] = whole.layer(k, inputs, arrived)[rows]
                    made[rows] = k + 1
            done = made
            if t >= clock.horizon and bool((done[clock.alive] == layers).all()):
                return Answer(logits=states[-1], alive=clock.alive, steps=t + 1, converged=True)
        return Answer(logits=states[-1], alive=clock.alive, steps=self.steps, converged=False)


def _newest(
    states: list[Tensor], fits: list[int], seen: Tensor, col: Tensor
) -> tuple[Tensor, Tensor]:
    """The newest fitting state at each entry, and whether there is one.

    State i ≥ 1 is the output of layer i − 1; state 0, the features, is looked up elsewhere.
    """
    if fits == [0]:
        return states[0].new_zeros(0), seen >= 0
    views = states[fits[0] - 1].new_zeros(len(col), states[fits[0] - 1].shape[1])
    arrived = torch.zeros_like(seen, dtype=torch.bool)
    for i in fits:
        views = torch.where((seen >= i).unsqueeze(1), states[i - 1][col], views)
        arrived = arrived | (seen >= i)
    return views, arrived


class _Copies:
    """The graph with an own copy of the neighbour at every entry: what a node sees is its own."""

    def __init__(self, model: GNN, x: Tensor | Features, adj: Adj, merged: Adj) -> None:
        self.model, n = model, adj.num_nodes
        assert merged.weight is not None
        self.weight = merged.weight
        self.csr = CSR(merged.csr.indptr, torch.arange(merged.csr.nnz) + n, n + merged.csr.nnz)
        nodes = torch.cat([torch.arange(n), merged.csr.coo[1]])
        self.x = model.encode(take(x, nodes))
        self.final = adj.final or adj.left is not None
        self.degree = None if self.final else adj.degrees()[nodes]

    def layer(self, k: int, h: Tensor | None, arrived: Tensor) -> Tensor:
        """Output (n, width) of layer k on inputs (n + entries, width); None for the features."""
        weight = self.weight * arrived
        hop = Adj(csr=self.csr, weight=weight, degree=self.degree, final=self.final)
        layers = self.model.layers
        assert layers is not None
        batch = Adj(csr=self.csr, hops=(hop,) * layers, final=self.final)
        operator = self.model.operator(batch)
        return self.model.layer(k, self.x if h is None else h, operator.hop(k), self.x)


class _Clock:
    """Who updates when, and how old what everyone sees is.

    Attributes:
        horizon: Step by which all late nodes have started and all failing ones have stopped.
        start: (n,) step at which a node starts.
        alive: (n,) nodes that never fail.
    """

    def __init__(self, hogwild: Hogwild, n: int, loops: Tensor, span: int, rng: Rng) -> None:
        self.hogwild, self.loops = hogwild, loops
        self._gaps, self._ages = rng["gaps"].torch(), rng["ages"].torch()
        self.alive, stop = self._some(hogwild.fail, n, span, rng["fail"])
        on_time, start = self._some(hogwild.late, n, span, rng["late"])
        never = torch.iinfo(torch.int64).max
        self.start = torch.where(on_time, 0, start)
        self.stop = torch.where(self.alive, never, stop)
        self.horizon = span if hogwild.fail or hogwild.late else 0
        first = torch.randint(hogwild.delay, (n,), generator=self._gaps)
        self.next, self.now = self.start + first, 0

    @staticmethod
    def _some(share: float, n: int, span: int, rng: Rng) -> tuple[Tensor, Tensor]:
        """(n,) which nodes are not among a random share, and a random step for each."""
        generator = rng.torch()
        others = torch.ones(n, dtype=torch.bool)
        others[torch.randperm(n, generator=generator)[: round(share * n)]] = False
        return others, torch.randint(1, span + 1, (n,), generator=generator)

    def __iter__(self) -> Iterator[tuple[int, Tensor]]:
        """(step, (n,) who updates)."""
        for step in range(self.hogwild.steps):
            self.now = step
            due = (self.next == self.now) & (self.now < self.stop)
            yield self.now, due
            gap = torch.randint(1, self.hogwild.delay + 1, (len(due),), generator=self._gaps)
            self.next = torch.where(self.next == self.now, self.now + gap, self.next)

    def ages(self) -> Tensor:
        """(entries,) how many steps old what is seen is; nothing is older than the start."""
        oldest = min(self.hogwild.delay, self.now + 1)
        ages = torch.randint(oldest, (len(self.loops),), generator=self._ages)
        return torch.where(self.loops, 0, ages)


@torch.no_grad()
def change(answer: Tensor, synchronous: Tensor) -> float:
    """‖answer − synchronous‖ / ‖synchronous‖ over all nodes (n, outputs)."""
    return float((answer - synchronous).norm() / synchronous.norm().clamp(min=1e-300))


@dataclass(frozen=True)
class Row:
    """One delay bound of a sweep: relative change of the answers, mean and largest of the runs."""

    delay: int
    mean: float
    largest: float
    converged: bool


def sweep(
    victim: GNN | Predictor,
    x: Tensor | Features,
    adj: Adj,
    rng: Rng,
    *,
    delays: Sequence[int] = (1, 2, 5, 10, 20),
    runs: int = 3,
    fail: float = 0.0,
    late: float = 0.0,
) -> list[Row]:
    """How far asynchronous answers end from the synchronous ones, by delay bound.

    Args:
        victim: A model or predictor.
        x: Features.
        adj: Adjacency.
        rng: Stream; each run draws from its own child.
        delays: Bounds to try.
        runs: Schedules a bound.
        fail: As in ``Hogwild``.
        late: As in ``Hogwild``.
    """
    forward = victim.forward if isinstance(victim, Predictor) else victim.eval()
    with torch.no_grad():
        wanted = forward(x, adj)
    rows = []
    for delay in delays:
        simulator = Hogwild(delay=delay, fail=fail, late=late)
        answers = [simulator.run(victim, x, adj, rng[delay][i]) for i in range(runs)]
        changes = [change(answer.logits, wanted) for answer in answers]
        converged = all(answer.converged for answer in answers)
        rows.append(Row(delay, sum(changes) / runs, max(changes), converged))
    return rows
