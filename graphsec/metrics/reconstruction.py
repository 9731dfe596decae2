"""How close recovered features and labels are to the true ones."""

from __future__ import annotations

import torch
from torch import Tensor

from graphsec.metrics.base import Metric

CLOSE = 1e-2  # relative error at which a node's features count as recovered
_FAR = float("inf")


def relative_error(found: Tensor, truth: Tensor) -> float:
    """‖found − truth‖ / ‖truth‖ over all entries, in float64; 1 is what zeros score.

    Where the truth is all zeros: 0 if that was found, else infinite.
    """
    off = float((found.double() - truth.double()).norm())
    size = float(truth.double().norm())
    return off / size if size else (0.0 if off == 0 else _FAR)


def support_f1(found: Tensor, truth: Tensor) -> float:
    """F1 of which entries (k, d) are not 0.

    An entry counts as found above half of the largest of its row: bag-of-words features have one
    value a row. A row without positive entries has no support.
    """
    top = found.max(1, keepdim=True).values
    said, there = (found > top / 2) & (top > 0), truth != 0
    hits = int((said & there).sum())
    total = int(said.sum()) + int(there.sum())
    return 2 * hits / total if total else 1.0


def psnr(found: Tensor, truth: Tensor) -> float:
    """Peak signal-to-noise ratio (dB) of pixels in 0…1, recovered ones clipped; at most 120."""
    error = float((found.double().clamp(0, 1) - truth.double()).square().mean())
    return -10 * float(torch.tensor(max(error, 1e-12)).log10())


def reconstruction_metrics(
    found: Tensor, truth: Tensor, *, sparse: bool = False, pixels: bool = False
) -> dict[str, Metric]:
    """Relative error, what it gains over zeros, and the share of nodes recovered.

    Args:
        found: (k, d) recovered features.
        truth: (k, d) true ones, dense.
        sparse: Whether most features are 0, so that it counts which are not.
        pixels: Whether features are pixels in 0…1.
    """
    error = relative_error(found, truth)
    rows = (found.double() - truth.double()).norm(dim=1) <= CLOSE * truth.double().norm(dim=1)
    label = f"share of nodes recovered to {CLOSE:.0%}"
    numbers = {
        "reconstruction_error": Metric(error, True, 0, _FAR, "relative error of features"),
        "reconstruction_gain": Metric(
            1 - error**2, False, -_FAR, 1, "share of squared error removed from a guess of zeros"
        ),
        "recovered_share": Metric(float(rows.double().mean()), False, 0, 1, label),
    }
    if sparse:
        value = support_f1(found, truth)
        numbers["support_f1"] = Metric(value, False, 0, 1, "F1 of recovered words")
    if pixels:
        numbers["psnr"] = Metric(psnr(found, truth), False, -_FAR, 120, "PSNR (dB)")
    return numbers


def label_metrics(found: Tensor | None, counts: Tensor | None, truth: Tensor) -> dict[str, Metric]:
    """Accuracy of recovered labels (k,), and of their counts (classes,): the share in common."""
    numbers = {}
    if found is not None:
        right = float((found == truth).double().mean())
        numbers["label_accuracy"] = Metric(right, False, 0, 1, "accuracy of recovered labels")
    if counts is not None:
        wanted = torch.bincount(truth, minlength=len(counts))
        common = float(torch.minimum(counts, wanted).sum()) / len(truth)
        numbers["label_counts"] = Metric(common, False, 0, 1, "label counts in common")
    return numbers
