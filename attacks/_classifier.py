"""Classifiers that an attacker fits to what it knows, and to nothing else."""

from __future__ import annotations

import warnings
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from graphsec.rng import Rng

Classifier = Literal["logistic", "mlp", "boosting"]

_PENALTIES = (1e-3, 1e-2, 1e-1, 1.0, 10.0)  # inverse strengths, as scikit-learn counts them
_FOLDS = 5


def learned(
    kind: Classifier, columns: Tensor, values: Tensor, rng: Rng, *, asked: Tensor
) -> Tensor:
    """Log-probabilities (m, classes) of rows, by a classifier that is fitted to other rows.

    "logistic" is a regression whose ridge penalty is chosen by cross-validation (one of 0.001 to
    10, five folds, likelihood), "mlp" a perceptron with one layer of 64 that stops by a tenth of
    the rows, "boosting" histogram gradient boosting as scikit-learn has it. The first two
    standardise columns by the rows that they are fitted to.

    Args:
        kind: Which.
        columns: (k, d) rows to fit to.
        values: (k,) their classes, ≥ 0.
        rng: Stream of the fit.
        asked: (m, d) rows to judge.

    Returns:
        (m, largest class + 1) float64; classes without a row get the logarithm of 1e-12, and no
        probability falls below it.
    """
    x, y = columns.double().numpy(), values.numpy()
    classes = np.unique(y)
    found = np.zeros((len(asked), int(classes.max()) + 1))
    if len(classes) == 1:
        found[:, classes] = 1.0
    else:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of convergence and of folds: both are stated above
            model = _model(kind, y, rng).fit(x, y)
        found[:, classes] = model.predict_proba(asked.double().numpy())
    return torch.from_numpy(found).clamp(min=1e-12).log()


def _model(kind: Classifier, y: np.ndarray, rng: Rng) -> Any:
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    seed = rng.entropy % 2**32
    if kind == "boosting":
        from sklearn.ensemble import HistGradientBoostingClassifier

        return HistGradientBoostingClassifier(random_state=seed)
    if kind == "mlp":
        from sklearn.neural_network import MLPClassifier

        # Too few rows to hold any out: then all epochs are run.
        stop = bool(np.bincount(y)[np.unique(y)].min() >= 20)
        perceptron = MLPClassifier((64,), early_stopping=stop, random_state=seed)
        return make_pipeline(StandardScaler(), perceptron)
    return make_pipeline(StandardScaler(), _logistic(y))


def _logistic(y: np.ndarray) -> Any:
    from sklearn.linear_model import LogisticRegression, LogisticRegressionCV

    smallest = int(np.bincount(y)[np.unique(y)].min())
    if smallest < _FOLDS:  # a fold would lack a class
        return LogisticRegression(C=0.1, max_iter=1000)
    return LogisticRegressionCV(
        Cs=list(_PENALTIES), cv=_FOLDS, scoring="neg_log_loss", max_iter=1000
    )
