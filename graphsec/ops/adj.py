"""The graph as a layer sees it: a fixed clean part, differentiable weights, candidate pairs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function_unary

from graphsec.ops.functions import edge_ratio, edge_sum, sddmm, spmm
from graphsec.ops.noise import noisy
from graphsec.ops.structure import CSR, Pairs, in_transform, kernels_for, outside_transforms
from graphsec.ops.symmetric import Symmetric

if TYPE_CHECKING:
    from graphsec.graph import Graph
    from graphsec.rng import Rng

Normalization = Literal["sym", "row"] | None
LARGEST = 5_000  # nodes of a dense adjacency with one weight an entry


@dataclass(frozen=True, eq=False)
class Block:
    """Candidate pairs of a structure attack, beside the clean edges.

    Args:
        pairs: (2, B) distinct pairs: u < v if symmetric, else source and target.
        weight: (B,) how far each pair is flipped, 0 (not at all) to 1.
        clean_edge: (B,) the entry of the clean pattern that a deletion refers to (the one in
            row target, column source), −1 for an addition.
        symmetric: Whether a pair stands for both directions.
    """

    pairs: Tensor
    weight: Tensor
    clean_edge: Tensor
    symmetric: bool

    @cached_property
    def additions(self) -> Tensor:
        """Indices of the pairs that are not clean edges."""
        return (self.clean_edge < 0).nonzero().ravel()

    @cached_property
    def deletions(self) -> Tensor:
        """Indices of the pairs that are clean edges."""
        return (self.clean_edge >= 0).nonzero().ravel()

    def with_weight(self, weight: Tensor) -> Block:
        """The same pairs, flipped by another amount; what was derived from the pairs is kept."""
        other = replace(self, weight=weight)
        kept = ("additions", "deletions", "_merged")
        other.__dict__.update({k: v for k, v in self.__dict__.items() if k in kept})
        return other


@dataclass(frozen=True, eq=False, kw_only=True)
class Adj:
    """Adjacency of n receiving rows and sending columns: ``left · (W + loop·I) · right``.

    A pytree of tensors (``tensors``, ``with_tensors``). Weight 0 means absent, everywhere.

    Attributes:
        csr: The clean pattern; row = receiving node, column = sending node.
        weight: (E,) weights, or (E, heads) attention; None for ones.
        block: Candidate pairs, a second operand.
        left: (rows,) factor of the rows of a normalised operator.
        right: (cols,) factor of its columns.
        loop: Weight of the self-loops that a normalised operator adds.
        degree: (cols,) weighted in-degrees in the whole graph, where this is a sample of it.
        roots: Nodes whose outputs are wanted, as rows of the last layer, in a sample.
        owner: (cols,) the root each copied node belongs to, where copies are kept apart.
        hops: One bipartite Adj a layer, in a sample; rows are a prefix of the columns.
        final: The weights are a finished operator: ``normalized`` leaves them alone.
        factors: (L, R), (rows, r) and (cols, r): W also has the dense part L Rᵀ, of any sign,
            which only ``merged`` spells out; R is None for the identity (``dense``).
        learned: L again, where products with it are to note their derivatives down.
    """

    csr: CSR
    weight: Tensor | None = None
    block: Block | None = None
    left: Tensor | None = None
    right: Tensor | None = None
    loop: float = 0.0
    degree: Tensor | None = None
    roots: Tensor | None = None
    owner: Tensor | None = None
    hops: tuple[Adj, ...] = ()
    final: bool = False
    factors: tuple[Tensor, Tensor | None] | None = None
    learned: Symmetric | None = None

    @staticmethod
    def dense(matrix: Tensor | Symmetric) -> Adj:
        """The adjacency with the entries of ``matrix`` (n, n), row = receiving node."""
        learned = matrix if isinstance(matrix, Symmetric) else None
        entries = matrix.matrix if isinstance(matrix, Symmetric) else matrix
        indices = torch.zeros(len(entries) + 1, dtype=torch.int64, device=entries.device)
        csr = CSR(indices, indices[:0], len(entries))
        return Adj(csr=csr, factors=(entries, None), learned=learned)

    @staticmethod
    def of(graph: Graph) -> Adj:
        """The adjacency of a graph; messages go from source to target."""
        csr = CSR(graph.indptr, graph.indices, graph.num_nodes)
        weight = graph.edge_weight
        if graph.directed:
            flipped = csr.T
            weight = None if weight is None else weight[flipped.eid]
            csr = CSR(flipped.indptr, flipped.indices, graph.num_nodes)
        return Adj(csr=csr, weight=weight)

    @property
    def num_nodes(self) -> int:
        """Number of receiving nodes."""
        return self.csr.num_rows

    @property
    def requires_grad(self) -> bool:
        """Whether any part carries a gradient."""
        return any(tensor.requires_grad for tensor in self.tensors())

    def tensors(self) -> list[Tensor]:
        """The differentiable leaves that are present."""
        candidate = None if self.block is None else self.block.weight
        parts = (self.weight, self.left, self.right, candidate, *(self.factors or ()))
        return [part for part in parts if part is not None]

    def with_tensors(self, tensors: list[Tensor]) -> Adj:
        """The same adjacency with other leaves, in the order of ``tensors()``."""
        left = list(tensors)
        changes: dict[str, Any] = {}
        for name in ("weight", "left", "right"):
            if getattr(self, name) is not None:
                changes[name] = left.pop(0)
        if self.block is not None:
            changes["block"] = self.block.with_weight(left.pop(0))
        if self.factors is not None:
            across = left.pop(0)
            changes["factors"] = (across, None if self.factors[1] is None else left.pop(0))
            changes["learned"] = None
        return replace(self, **changes)

    def hop(self, i: int) -> Adj:
        """What layer i propagates over: itself, or the i-th block of a sample."""
        return self.hops[i] if self.hops else self

    # -- candidate pairs ----------------------------------------------------------------------

    def with_block(self, pairs: Tensor, weight: Tensor, *, symmetric: bool = True) -> Adj:
        """This adjacency with candidate pairs beside the clean edges.

        Args:
            pairs: (2, B) distinct pairs (u < v if symmetric, else source → target).
            weight: (B,) how far each is flipped; may require gradients.
            symmetric: Whether the graph is undirected.
        """
        clean_edge = self._find_symmetric(pairs) if symmetric else None
        if clean_edge is None:
            clean_edge = self.csr.find(pairs[1], pairs[0])
        return replace(self, block=Block(pairs, weight, clean_edge, symmetric))

    @cached_property
    def _upper(self) -> tuple[Tensor, Tensor]:
        """(entries with row < column, their rising keys)."""
        row, col = self.csr.coo
        entry = (row < col).nonzero().ravel()
        return entry, self.csr.keys[entry]

    def _find_symmetric(self, pairs: Tensor) -> Tensor | None:
        """Entry of each pair, by looking the few edges up among the many pairs.

        None if the pairs are not sorted with u < v, so that this way does not work.
        """
        codes = pairs[0] * self.num_nodes + pairs[1]
        if not bool((pairs[0] < pairs[1]).all()) or not bool((codes[1:] > codes[:-1]).all()):
            return None
        found = torch.full_like(codes, -1)
        entry, keys = self._upper
        kernels = kernels_for("sparse")
        if kernels is not None and codes.device.type == "cpu":
            kernels.match(codes.numpy(), keys.numpy(), entry.numpy(), found.numpy())
        elif len(codes) and len(keys):
            spot = torch.searchsorted(codes, keys).clamp(max=len(codes) - 1)
            hit = codes[spot] == keys
            found[spot[hit]] = entry[hit]
        return found

    @cached_property
    def _reverse(self) -> Tensor:
        """The entry (v, u) of each entry (u, v) of a symmetric pattern."""
        eid = self.csr.T.eid
        assert eid is not None
        return eid

    def _signed(self, block: Block) -> Tensor:
        """What each pair adds to its entry: +p if absent, −p·w if present."""
        here = block.clean_edge.clamp(min=0)
        present = -1.0 if self.weight is None else -self.weight[here]
        one = torch.ones((), dtype=block.weight.dtype, device=block.weight.device)
        return block.weight * torch.where(block.clean_edge >= 0, present * one, one)

    def _pairs(self, block: Block) -> Pairs:
        return Pairs(block.pairs[1], block.pairs[0], self.num_nodes, block.symmetric)

    # -- operators ----------------------------------------------------------------------------

    def degrees(self) -> Tensor:
        """(cols,) weighted in-degrees, candidate pairs included; differentiable."""
        if self.degree is not None:
            return self.degree
        if self.weight is None:
            dtype = torch.float32 if self.block is None else self.block.weight.dtype
            degree = self.csr.indptr.diff().to(dtype)
        else:
            degree = edge_sum(self.csr, self.weight.unsqueeze(-1)).squeeze(-1)
        if self.block is not None:
            signed = self._signed(self.block)
            degree = degree.index_add(0, self.block.pairs[1], signed)
            if self.block.symmetric:
                degree = degree.index_add(0, self.block.pairs[0], signed)
        if self.learned is not None:
            ones = degree.new_ones(self.num_nodes, 1)
            degree = degree + (self.learned @ ones).squeeze(1)
        elif self.factors is not None:
            across, along = self.factors
            degree = degree + (across.sum(1) if along is None else across @ along.sum(0))
        return degree

    def normalized(self, kind: Normalization = "sym", self_loops: bool = True) -> Adj:
        """The normalised operator; differentiable in the weights and right at degree 0.

        Args:
            kind: "sym" is D^-½ (A + I) D^-½ (Kipf & Welling 2017, §2.2), "row" is D^-1 (A + I),
                None leaves the weights as they are. Degrees are in-degrees.
            self_loops: Whether I is added.
        """
        if self.final:
            return self
        if self.requires_grad:
            return self._normalized(kind, self_loops)
        cache: dict[tuple[Normalization, bool], Adj] = self.__dict__.setdefault("_normal", {})
        if (kind, self_loops) not in cache:
            cache[kind, self_loops] = self._normalized(kind, self_loops)
        return cache[kind, self_loops]

    def _normalized(self, kind: Normalization, self_loops: bool) -> Adj:
        loop = 1.0 if self_loops else 0.0
        hops = tuple(hop.normalized(kind, self_loops) for hop in self.hops)
        if hops or kind is None:
            return replace(self, loop=loop, hops=hops)
        degree = self.degrees() + loop
        # A degree may dip below 0 by rounding when all its edges are flipped away.
        safe = torch.where(degree > 1e-12, degree, 1.0)
        if kind == "row":
            factor = torch.where(degree > 1e-12, 1 / safe, 0.0)
            return replace(self, left=factor[: self.num_nodes], loop=loop)
        if kind == "sym":
            factor = torch.where(degree > 1e-12, safe.rsqrt(), 0.0)
            return replace(self, left=factor[: self.num_nodes], right=factor, loop=loop)
        raise ValueError(f"normalization must be 'sym', 'row' or None, got {kind!r}")

    def merged(self, self_loops: bool = False) -> Adj:
        """One pattern with one weight an entry: clean edges, candidate pairs, loops, factors.

        What is nonlinear in the weights (attention, medians) needs this form. Entries of
        weight 0 stay in the pattern, so that gradients reach them. The hops of a sample are
        merged one by one.
        """
        hops = tuple(hop.merged(self_loops) for hop in self.hops)
        loop = self.loop or (1.0 if self_loops and not self.final else 0.0)
        if self.factors is not None:
            csr, weight = self._dense(loop)
        elif self.block is None and not loop:
            csr, weight = self.csr, self._explicit_weight()
        else:
            csr, slot = self._layout(bool(loop))
            weight = torch.cat(self._values(loop))[slot]
        row, col = csr.coo
        if self.left is not None:
            weight = weight * self.left[row]
        if self.right is not None:
            weight = weight * self.right[col]
        return Adj(csr=csr, weight=weight, hops=hops, final=True)

    def _dense(self, loop: float) -> tuple[CSR, Tensor]:
        """All n × n entries of a matrix with factors, loops on its diagonal."""
        assert self.factors is not None
        n, (left, right) = self.num_nodes, self.factors
        if n > LARGEST:
            raise ValueError(
                f"num_nodes must be ≤ {LARGEST} where a low-rank adjacency is spelled out "
                f"entry by entry (attention, medians), got {n}"
            )
        rest = replace(self, factors=None, learned=None, left=None, right=None, loop=0.0).merged()
        assert rest.weight is not None
        matrix = left if right is None else left @ right.T
        matrix = matrix.index_put(rest.csr.coo, rest.weight.to(matrix.dtype), accumulate=True)
        matrix = matrix + loop * torch.eye(n, dtype=matrix.dtype, device=matrix.device)
        each = torch.arange(n, device=matrix.device)
        csr = CSR(torch.arange(n + 1, device=matrix.device) * n, each.repeat(n), n)
        return csr, matrix.reshape(-1)

    def _explicit_weight(self) -> Tensor:
        if self.weight is not None:
            return self.weight
        like = next((t for t in self.tensors()), None)
        dtype = torch.float32 if like is None else like.dtype
        return torch.ones(self.csr.nnz, dtype=dtype, device=self.csr.indices.device)

    def _values(self, loop: float) -> list[Tensor]:
        """Values of clean edges, added pairs and loops, in the order of ``_layout``."""
        weight = self._explicit_weight()
        parts = [weight]
        if self.block is not None:
            gone = self.block.deletions
            edge = self.block.clean_edge[gone]
            if self.block.symmetric:
                edge, gone = torch.cat([edge, self._reverse[edge]]), torch.cat([gone, gone])
            cut = -weight[edge] * self.block.weight[gone]
            parts = [weight.index_add(0, edge, cut), self.block.weight[self.block.additions]]
        if loop:
            parts.append(weight.new_full((self.num_nodes,), loop))
        return parts

    def _layout(self, loops: bool) -> tuple[CSR, Tensor]:
        """The merged pattern and where each entry's value stands in ``_values``."""
        holder = self.csr if self.block is None else self.block
        cache: dict[bool, tuple[CSR, Tensor]] = holder.__dict__.setdefault("_merged", {})
        if loops not in cache:
            with outside_transforms():
                cache[loops] = self._merge(loops)
        return cache[loops]

    def _merge(self, loops: bool) -> tuple[CSR, Tensor]:
        n, edges = self.num_nodes, self.csr.nnz
        u = v = self.csr.indices.new_zeros(0)
        symmetric = False
        if self.block is not None:
            v, u = self.block.pairs[:, self.block.additions]
            symmetric = self.block.symmetric
        total = edges + len(u) * (2 if symmetric else 1) + (n if loops else 0)
        kernels = kernels_for("sparse")
        if kernels is not None and u.device.type == "cpu":
            indptr, indices, slot = (np.empty(k, np.int64) for k in (n + 1, total, total))
            kernels.merge(
                self.csr.indptr.numpy(), self.csr.indices.numpy(), u.numpy(), v.numpy(),
                symmetric, loops, indptr, indices, slot,
            )  # fmt: skip
            made = [torch.from_numpy(part) for part in (indptr, indices, slot)]
            return CSR(made[0], made[1], self.csr.num_cols), made[2]
        row, col = self.csr.coo
        place = torch.arange(len(u), device=u.device) + edges
        loop = torch.arange(n if loops else 0, device=u.device)
        rows, cols, slots = [row, u], [col, v], [torch.arange(edges, device=u.device), place]
        if symmetric:
            rows, cols, slots = [*rows, v], [*cols, u], [*slots, place]
        rows, cols = [*rows, loop], [*cols, loop]
        slots = [*slots, loop + edges + len(u)]
        order = torch.cat(rows).argsort(stable=True)
        counts = torch.bincount(torch.cat(rows), minlength=n)
        indptr_t = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
        return CSR(indptr_t, torch.cat(cols)[order], self.csr.num_cols), torch.cat(slots)[order]

    def scaled(self, clean: Tensor, pairs: Tensor | None) -> Adj:
        """Clean edges times ``clean`` (E,) and added pairs times ``pairs`` (B,): a filter."""
        if self.factors is not None:
            raise ValueError("a low-rank adjacency has no edges to filter: filter before it")
        block = self.block
        if block is not None and pairs is not None:
            factor = torch.where(block.clean_edge < 0, pairs, torch.ones_like(pairs))
            block = block.with_weight(block.weight * factor)
        return replace(self, weight=self._explicit_weight() * clean, block=block)

    def pruned(self) -> Adj:
        """The same adjacency without entries of weight 0 (only where nothing needs a gradient)."""
        if self.weight is None or self.weight.dim() > 1 or self.requires_grad or self.block:
            return self
        keep = self.weight != 0
        if bool(keep.all()):
            return self
        kept = torch.cat([keep.new_zeros(1, dtype=torch.int64), keep.cumsum(0)])
        csr = CSR(kept[self.csr.indptr], self.csr.indices[keep], self.csr.num_cols)
        weight = self.weight[keep]
        return replace(self, csr=csr, weight=None if bool((weight == 1).all()) else weight)

    def sample(self, p_add: float, p_del: float, rng: Rng) -> Adj:
        """A noisy copy for randomised smoothing: each edge kept, each non-edge added at random.

        Args:
            p_add: Probability that an absent pair appears.
            p_del: Probability that an edge disappears.
            rng: Stream to draw from; it couples the noise of different graphs (``noisy``).
        """
        return noisy(self, p_add, p_del, rng)


def propagate(adj: Adj, h: Tensor, reduce: Literal["sum", "mean", "max"] = "sum") -> Tensor:
    """Every node receives from its neighbours.

    Args:
        adj: Adjacency or normalised operator.
        h: (cols, width), or (cols, heads, width) for attention weights (E, heads).
        reduce: "sum" applies the operator; "mean" divides by the weighted degree; "max" takes
            the largest value among neighbours of positive weight (0 without any).

    Returns:
        (rows, …) like h; "sum" and "mean" are differentiable to any order in h and the weights.

    A torch function, as ``linear`` is.
    """
    if has_torch_function_unary(h):
        watched: Tensor = handle_torch_function(propagate, (h,), adj, h, reduce=reduce)
        return watched
    if reduce == "mean":
        return propagate(adj.normalized("row", self_loops=False), h)
    if reduce == "max":
        return _propagate_max(adj, h)
    if reduce != "sum":
        raise ValueError(f"reduce must be 'sum', 'mean' or 'max', got {reduce!r}")
    x = h if h.dim() == 3 else h.unsqueeze(1)
    if adj.right is not None:
        x = x * adj.right.to(x.dtype).view(-1, 1, 1)
    weight = adj.weight
    if weight is not None:
        weight = weight.to(x.dtype) if weight.dim() == 2 else weight.to(x.dtype).unsqueeze(-1)
        weight = weight.expand(-1, x.shape[1])
    out = spmm(adj.csr, weight, x)
    # Without gradients all is summed up in place: a pass over (n, width) numbers costs about as
    # much as the product itself.
    place = None if torch.is_grad_enabled() or in_transform() else out
    if adj.block is not None:
        signed = adj._signed(adj.block).to(x.dtype).unsqueeze(-1).expand(-1, x.shape[1])
        pairs = adj._pairs(adj.block)
        out = out + spmm(pairs, signed, x) if place is None else pairs.add_to(out, signed, x)
    if adj.loop:
        out = torch.add(out, x[: adj.num_nodes], alpha=adj.loop, out=place)
    if adj.factors is not None:
        across, along = adj.factors
        sent = x.flatten(1) if along is None else along.to(x.dtype).T @ x.flatten(1)
        operand = across.to(x.dtype) if adj.learned is None else adj.learned
        out = torch.add(out, (operand @ sent).view_as(out), out=place)
    if adj.left is not None:
        out = torch.mul(out, adj.left.to(x.dtype).view(-1, 1, 1), out=place)
    return out if h.dim() == 3 else out.squeeze(1)


def _propagate_max(adj: Adj, h: Tensor) -> Tensor:
    merged = adj.merged()
    row, col = merged.csr.coo
    assert merged.weight is not None
    keep = (merged.weight > 0).nonzero().ravel()
    row, messages = row[keep], h[col[keep]]
    index = row.view(-1, *[1] * (h.dim() - 1)).expand_as(messages)
    zeros = h.new_zeros(adj.num_nodes, *h.shape[1:])
    return zeros.scatter_reduce(0, index, messages, "amax", include_self=False)


def edge_scores(csr: CSR, receive: Tensor, send: Tensor) -> Tensor:
    """receive[row] + send[column] at each entry: (entries, heads)."""
    a = torch.stack([receive, torch.ones_like(receive)], dim=-1)
    b = torch.stack([torch.ones_like(send), send], dim=-1)
    return sddmm(csr, a, b)


def edge_softmax(adj: Adj, scores: Tensor) -> Tensor:
    """Attention w·exp(s) / Σ w·exp(s) of a merged adjacency: (entries, heads).

    An entry of weight 0 gets attention 0 and takes none from the others.
    """
    weight = adj._explicit_weight().to(scores.dtype)
    weight = (weight if weight.dim() == 2 else weight.unsqueeze(-1)).expand_as(scores)
    return weight * edge_ratio(adj.csr, weight, scores)
