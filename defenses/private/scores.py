"""Defenses of the answers alone: less is shown of the scores, and the model stays as it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from graphsec.defenses.base import Defense
from graphsec.ops.noise import noise_of
from graphsec.registry import DEFENSES, Range

LEAST = 1e-30  # probability that stands for 0, so that logarithms are finite


@dataclass(frozen=True, kw_only=True)
class Scores(Defense):
    """Base of defenses that change the posteriors an answer shows.

    Answers are the logarithms of the changed posteriors. Training is not changed, and neither are
    hidden states, weights and gradients: an attacker who has these passes the defense by, and
    attacks that differentiate the model are not hindered.
    """

    tasks: ClassVar[tuple[str, ...]] = ("classification",)

    def present(self, logits: Tensor) -> Tensor:
        """Logarithms of the posteriors as shown."""
        return self.shown(logits.softmax(1)).clamp(min=LEAST).log()

    def shown(self, posteriors: Tensor) -> Tensor:
        """(k, classes) what is shown instead of the posteriors (k, classes)."""
        raise NotImplementedError


@DEFENSES.register("label-only")
@dataclass(frozen=True, kw_only=True)
class LabelOnly(Scores):
    """The answer is the class: its posterior is 1, all others 0.

    Source: Shokri et al., Membership Inference Attacks Against Machine Learning Models, S&P 2017,
    §VIII, at its limit.
    """

    def shown(self, posteriors: Tensor) -> Tensor:
        """One-hot of the class."""
        return F.one_hot(posteriors.argmax(1), posteriors.shape[1]).to(posteriors.dtype)


@DEFENSES.register("round-scores")
@dataclass(frozen=True, kw_only=True)
class RoundScores(Scores):
    """Posteriors are rounded; where the two largest become equal the first class is answered.

    Source: Shokri et al., S&P 2017, §VIII ("coarsen precision").

    Attributes:
        decimals: Digits after the point.
    """

    decimals: Annotated[int, Field(ge=0, le=7), Range(1, 5)] = 1

    def shown(self, posteriors: Tensor) -> Tensor:
        """To so many decimals."""
        return posteriors.round(decimals=self.decimals)


@DEFENSES.register("top-k-scores")
@dataclass(frozen=True, kw_only=True)
class TopKScores(Scores):
    """The k largest posteriors are shown; the rest is shared equally by the other classes.

    Source: Shokri et al., S&P 2017, §VIII ("restrict to top k classes").

    Attributes:
        k: Number of classes.
    """

    k: Annotated[int, Field(ge=1), Range(1, 5)] = 1

    def shown(self, posteriors: Tensor) -> Tensor:
        """Equal below the k largest, never above them."""
        classes = posteriors.shape[1]
        if self.k >= classes:
            return posteriors
        value, place = posteriors.topk(self.k, 1)
        rest = (1 - value.sum(1, keepdim=True)).clamp(min=0) / (classes - self.k)
        return rest.expand(-1, classes).scatter(1, place, value)


@DEFENSES.register("noisy-scores")
@dataclass(frozen=True, kw_only=True)
class NoisyScores(Scores):
    """Gaussian noise on the posteriors, cut at 0 and scaled to sum 1 again.

    The noise is a function of the posteriors and a fixed public stream: the same answer always
    comes with the same noise, so that to ask again does not average it away, while a question that
    differs a little (LinkTeller's) gets other noise. Many such questions do average it. No
    differential privacy is claimed.

    Source: the noise defense of Jia et al., MemGuard, CCS 2019, §2, in its plainest form, from
    memory; that it depends on the answer is ours.

    Attributes:
        scale: Standard deviation.
    """

    scale: Annotated[float, Field(ge=0), Range(0.01, 1, log=True)] = 0.1

    def shown(self, posteriors: Tensor) -> Tensor:
        """With noise; the plain posteriors where it leaves nothing above 0."""
        noise = noise_of(posteriors.detach().cpu().numpy(), b"noisy-scores")
        moved = (posteriors + self.scale * torch.from_numpy(noise).to(posteriors)).clamp(min=0)
        total = moved.sum(1, keepdim=True)
        return torch.where(total > 0, moved / total.clamp(min=LEAST), posteriors)
