"""What the parameters of a model are used for in one forward pass: linear maps and biases."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from graphsec.dp.blocks import Rows, scipy_of
from graphsec.models.base import GNN
from graphsec.ops import CSR, Adj, Features, linear, propagate, spmm

_SIZES = {"shape", "dtype", "device", "layout", "ndim", "requires_grad", "is_sparse"}
_ADD = {Tensor.add, torch.add}
_MATMUL = {Tensor.matmul, torch.matmul, Tensor.mm, torch.mm}


class UnknownUseError(ValueError):
    """A parameter is used in a way whose per-root gradients are not known here."""


@dataclass(frozen=True)
class Use:
    """One use of a parameter: output = input · W, or output = … + bias with no input."""

    name: str
    input: Rows | None
    output: Tensor


@dataclass
class _Later:
    """A product x · W that has not been asked for; whoever holds ``stand_in`` has it."""

    stand_in: Tensor
    x: Rows
    weight: Tensor
    made: Tensor | None = None


class Recorder(TorchFunctionMode):
    """Watches a forward pass: notes each map and bias, with the parameters cut off.

    A product is put off until somebody needs it. If that is a propagation Â (X W), the features
    are propagated instead, (Â X) W: that has as many rows as receive, of which a subtree has
    far fewer than rows that send.
    """

    def __init__(self, model: GNN) -> None:
        super().__init__()
        self.model = model
        self.names = {id(p): n for n, p in model.named_parameters() if p.requires_grad}
        self.aggregates = model.aggregate is propagate
        self.uses: list[Use] = []
        self._later: dict[int, _Later] = {}

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if getattr(getattr(func, "__self__", None), "__name__", "") in _SIZES:
            return func(*args)
        if (func is linear or func in _MATMUL) and id(args[1]) in self.names:
            return self._put_off(self.now(args[0]), args[1])
        later = self._later.get(id(args[1 if func is propagate else 0])) if args else None
        if later is not None and later.made is None:
            if func is propagate and (kwargs or {}).get("reduce") == "sum":
                return self._put_off(propagated(args[0], later.x), later.weight)
            if func is Tensor.__getitem__ and isinstance(args[1], slice):
                return self._put_off(_sliced(later.x, args[1]), later.weight)
        if func in _ADD and id(args[1]) in self.names and args[1].dim() == 1:
            return self._biased(args[0], args[1])
        kwargs = {} if kwargs is None else {k: self.now(v, func) for k, v in kwargs.items()}
        return func(*[self.now(value, func) for value in args], **kwargs)

    def _put_off(self, x: Rows, weight: Tensor) -> Tensor:
        if isinstance(x, Tensor) and x.layout != torch.strided:
            x = Features.of(x)
        stand_in = torch.empty(x.shape[0], weight.shape[1], dtype=weight.dtype, device="meta")
        self._later[id(stand_in)] = _Later(stand_in, x, weight)
        return stand_in if self.aggregates else self.now(stand_in)

    def _biased(self, z: Tensor, bias: Tensor) -> Tensor:
        later = self._later.get(id(z))
        if later is None or later.made is not None:
            return self._note(self.names[id(bias)], None, self.now(z) + bias.detach())
        # x W + b has the gradient of x W: one tensor serves both.
        out = linear(later.x, later.weight.detach()).add_(bias.detach())
        return self._note(self.names[id(bias)], None, self._note_map(later, out))

    def _note_map(self, later: _Later, out: Tensor) -> Tensor:
        return self._note(self.names[id(later.weight)], later.x, out)

    def now(self, value: Any, func: Callable[..., Any] | None = None) -> Any:
        """The value, as an argument of ``func``, with products that were put off worked out.

        Raises:
            UnknownUseError: It is, or holds, a parameter.
        """
        if isinstance(value, list | tuple) and type(value) in (list, tuple):
            return type(value)([self.now(one, func) for one in value])
        if id(value) in self.names:
            called = str(getattr(func, "__name__", func))
            raise UnknownUseError(unknown(self.model, self.names[id(value)], called))
        later = self._later.get(id(value))
        if later is None:
            return value
        if later.made is None:
            out = linear(later.x, later.weight.detach())
            later.made = self._note_map(later, out)
        return later.made

    def _note(self, name: str, x: Rows | None, out: Tensor) -> Tensor:
        out = out if out.requires_grad else out.requires_grad_()
        self.uses.append(Use(name, x, out))
        return out


def unknown(model: GNN, name: str, use: str) -> str:
    """What ``UnknownUseError`` says."""
    return (
        f"{type(model).__name__} uses its parameter {name!r} in {use}: per-root gradients at one "
        "pass are known for linear maps and biases only"
    )


def _sliced(x: Rows, rows: slice) -> Rows:
    if isinstance(x, Tensor):
        return x[rows]
    return x.rows(torch.arange(x.shape[0])[rows])


def propagated(adj: Adj, x: Rows) -> Rows:
    """Â X, sparse if X is; with one weight an entry, so that nothing as large as X is written."""
    merged = adj.merged()
    assert merged.weight is not None
    if isinstance(x, Tensor):
        weight = merged.weight.to(x.dtype).unsqueeze(-1)
        return spmm(merged.csr, weight, x.unsqueeze(1)).squeeze(1)
    operator = scipy_of(Features(merged.csr, merged.weight))
    made = (operator @ scipy_of(x)).tocsr()
    indptr, indices = (torch.from_numpy(a.astype(np.int64)) for a in (made.indptr, made.indices))
    return Features(CSR(indptr, indices, x.shape[1]), torch.from_numpy(made.data))
