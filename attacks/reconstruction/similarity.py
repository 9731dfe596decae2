"""The baseline of reconstruction: nodes that are alike are linked."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from graphsec.attacks.reconstruction._knowledge import Knowledge, ReconstructionAttack
from graphsec.registry import ATTACKS
from graphsec.threat import View


@ATTACKS.register("pair-similarity")
@dataclass(frozen=True, kw_only=True)
class PairSimilarity(ReconstructionAttack):
    """Scores a pair by how alike its nodes are in all that is known, without any optimisation.

    Cosine similarity of features, of the hidden states of each layer and of posteriors, and
    equality of labels, combined by Fisher's method. What another reconstruction is worth is what it
    gains over this with the same knowledge.

    Source: the decoders of priors of Zhou et al., On Strengthening and Defending Graph
    Reconstruction Attack with Markov Chain Approximation, ICML 2023; to combine them without
    weights is ours.
    """

    def parts(self, view: View, known: Knowledge, pairs: Tensor) -> list[Tensor]:
        """One score for each thing known."""
        return known.similarities(pairs)
