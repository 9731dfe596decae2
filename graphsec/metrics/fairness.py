"""How differently a classifier of two classes treats the groups of a sensitive attribute."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from graphsec.metrics.base import Metric


class FairnessError(ValueError):
    """Fairness can't be measured, for the labels or the groups are not what it needs."""


def check_groups(y: Tensor, group: Tensor | None, where: str = "the nodes") -> None:
    """Whether fairness can be measured on these nodes.

    Args:
        y: (k,) labels, −1 where there is none.
        group: (k,) sensitive attribute, any number of values.
        where: What the nodes are, for messages.

    Raises:
        FairnessError: The attribute is missing, constant or the same as the label, labels are not
            0 and 1, or a group has no labelled node or none of label 1 among these.
    """
    if group is None:
        raise FairnessError("fairness needs a sensitive attribute, found none")
    known = y >= 0
    y, group = y[known], group[known]
    classes, groups = torch.unique(y).tolist(), torch.unique(group).tolist()
    if not set(classes) <= {0, 1}:
        raise FairnessError(f"fairness needs labels 0 and 1 among {where}, found {classes}")
    if len(groups) < 2:
        raise FairnessError(
            f"fairness needs two groups or more among {where}, found the sensitive attribute to "
            f"be {groups}"
        )
    if len(groups) == 2:
        second = (group == groups[1]).to(y.dtype)
        if torch.equal(second, y) or torch.equal(1 - second, y):
            raise FairnessError(
                f"fairness needs a sensitive attribute other than the label, found them equal "
                f"among {where}"
            )
    missing = [value for value in groups if not bool(y[group == value].any())]
    if missing:
        raise FairnessError(
            f"fairness needs nodes of label 1 in each group among {where}, found none in "
            f"group {missing[0]}"
        )


def fairness_metrics(scores: Tensor, y: Tensor, group: Tensor) -> dict[str, Metric]:
    """Gaps between groups, and the utility that they are paid with.

    Gaps are the largest less the smallest rate over all groups: of answers 1 (ΔSP), of answers 1
    where that is right (ΔEO), the larger of that gap and the one where it is wrong (equalised
    odds; left out where a group has no label 0), of right answers. A classifier that always says
    the same has gaps of 0: the share of answers 1, the AUC and F1 stand beside them.

    Source: Dwork et al., Fairness Through Awareness, ITCS 2012 (statistical parity); Hardt et al.,
    Equality of Opportunity in Supervised Learning, NeurIPS 2016; computed by fairlearn.

    Args:
        scores: (k, 2) logits.
        y: (k,) labels 0 and 1; −1 is left out.
        group: (k,) sensitive attribute.

    Raises:
        FairnessError: As in ``check_groups``.
    """
    from fairlearn.metrics import (
        MetricFrame,
        false_positive_rate,
        selection_rate,
        true_positive_rate,
    )
    from sklearn.metrics import accuracy_score, f1_score, roc_auc_score

    check_groups(y, group)
    known = y >= 0
    truth, said = y[known].numpy(), scores[known].argmax(1).numpy()
    margins = (scores[known, 1] - scores[known, 0]).double().numpy()
    rates = {
        "selection": selection_rate, "true": true_positive_rate, "false": false_positive_rate,
        "right": accuracy_score,
    }  # fmt: skip
    frame = MetricFrame(
        metrics=rates, y_true=truth, y_pred=said, sensitive_features=group[known].numpy()
    )
    gap = {name: float(value) for name, value in frame.difference().items()}
    numbers = {
        "delta_sp": Metric(gap["selection"], False, 0, 1, "gap of answers 1 between groups (ΔSP)"),
        "delta_eo": Metric(gap["true"], False, 0, 1, "gap of right answers 1 (ΔEO)"),
        "accuracy_gap": Metric(gap["right"], False, 0, 1, "gap of accuracy between groups"),
        "worst_group_accuracy": Metric(
            float(frame.by_group["right"].min()), True, 0, 1, "accuracy of the worst group"
        ),
        "positive_rate": Metric(float(np.mean(said)), True, 0, 1, "share of answers 1"),
        "f1": Metric(float(f1_score(truth, said, zero_division=0)), True, 0, 1, "F1 of answers 1"),
    }
    groups = group[known]
    if all(bool((y[known][groups == value] == 0).any()) for value in torch.unique(groups)):
        odds = max(gap["true"], gap["false"])
        numbers["delta_odds"] = Metric(odds, False, 0, 1, "gap of equalised odds")
    if len(set(truth.tolist())) == 2:
        auc = float(roc_auc_score(truth, margins))
        numbers["class_auc"] = Metric(auc, True, 0, 1, "AUC of the classes")
    return numbers
