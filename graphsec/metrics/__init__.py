"""Metrics: pure functions from evidence and truth to numbers."""

from __future__ import annotations

from graphsec.metrics.base import Curve, Metric
from graphsec.metrics.fairness import FairnessError, check_groups, fairness_metrics
from graphsec.metrics.graphs import graph_metrics, split_by
from graphsec.metrics.privacy import (
    DegreeGroup,
    attribute_metrics,
    auc_by_degree,
    auc_interval,
    margin,
    per_user_metrics,
    property_metrics,
    ranking_metrics,
    roc_curve,
)
from graphsec.metrics.ranking import hit_rate, hits, ndcg, recall, recommendation_metrics
from graphsec.metrics.reconstruction import (
    label_metrics,
    reconstruction_metrics,
    relative_error,
)
from graphsec.metrics.robustness import certified_ratio, relative_area
from graphsec.metrics.utility import (
    accuracy,
    expected_calibration_error,
    macro_f1,
    r_squared,
    rmse,
)

__all__ = [
    "Curve",
    "DegreeGroup",
    "FairnessError",
    "Metric",
    "accuracy",
    "attribute_metrics",
    "auc_by_degree",
    "auc_interval",
    "certified_ratio",
    "check_groups",
    "expected_calibration_error",
    "fairness_metrics",
    "graph_metrics",
    "hit_rate",
    "hits",
    "label_metrics",
    "macro_f1",
    "margin",
    "ndcg",
    "per_user_metrics",
    "property_metrics",
    "r_squared",
    "ranking_metrics",
    "recall",
    "recommendation_metrics",
    "reconstruction_metrics",
    "relative_area",
    "relative_error",
    "rmse",
    "roc_curve",
    "split_by",
]
