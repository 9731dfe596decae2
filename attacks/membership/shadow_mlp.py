"""Shadow models and a classifier that learns from them how members are answered."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from graphsec.attacks.membership._asking import ShadowAttack
from graphsec.outcome import MemberScores
from graphsec.registry import ATTACKS, Range
from graphsec.rng import Rng
from graphsec.threat import View


@ATTACKS.register("shadow-mlp")
@dataclass(frozen=True, kw_only=True)
class ShadowMLP(ShadowAttack):
    """A perceptron learns from shadow models which posteriors are those of members.

    It sees a node's posterior in falling order, so that one classifier serves all classes, and
    with ``label`` that of the true label. Scaling and training use shadow models alone.

    Source: Shokri et al., Membership Inference Attacks Against Machine Learning Models, S&P 2017;
    sorted posteriors as in Salem et al., ML-Leaks, NDSS 2019; on nodes Olatunji et al., Membership
    Inference Attack on Graph Neural Networks, TPS 2021. From memory; the sizes are ours.

    Attributes:
        shadows: Number of shadow models.
        label: Whether it sees the posterior of the true label.
        hidden: Hidden units.
    """

    shadows: Annotated[int, Field(ge=2, le=10_000), Range(2, 64, log=True)] = 4
    label: bool = True
    hidden: Annotated[int, Field(ge=1), Range(16, 256, log=True)] = 64

    def run(self, view: View, rng: Rng) -> MemberScores:
        """The probability of membership by the classifier."""
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.neural_network import MLPClassifier
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        nodes = self.nodes(view)
        mine, shadows, inside = self.compare(view, nodes, rng, self._seen)
        perceptron = MLPClassifier((self.hidden,), random_state=rng["classifier"].entropy % 2**32)
        classifier = make_pipeline(StandardScaler(), perceptron)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # 200 epochs are enough
            classifier.fit(shadows.flatten(0, 1).numpy(), inside.flatten().numpy())
        scores = classifier.predict_proba(mine.numpy())[:, 1]
        return MemberScores(nodes=nodes, scores=torch.from_numpy(scores))

    def _seen(self, logits: Tensor, y: Tensor) -> Tensor:
        """(k, features) of the classifier."""
        p = logits.double().softmax(1)
        ordered = p.sort(1, descending=True).values
        return torch.cat([p.gather(1, y.unsqueeze(1)), ordered], 1) if self.label else ordered
