"""iDLG: labels from the gradient of the last bias."""

from __future__ import annotations

from dataclasses import dataclass

from graphsec.attacks.leakage._leak import LeakageAttack, label_counts
from graphsec.outcome import Reconstruction
from graphsec.registry import ATTACKS
from graphsec.rng import Rng
from graphsec.threat import View


@ATTACKS.register("idlg")
@dataclass(frozen=True, kw_only=True)
class IDLG(LeakageAttack):
    """Reads labels off the sign of the gradient at the logits: exact for a single root.

    Cross-entropy has the gradient p − onehot(y) at the logits, and a bias that is added to them
    shows it: the negative entry is the label. Of several roots it shows how many have each label,
    up to the mean answer, which is estimated (``label_counts``), and not which root has which.

    Source: Zhao et al., iDLG: Improved Deep Leakage from Gradients, 2020, §3; counts in batches
    from the mean answer as in Geng et al., Towards General Deep Leakage in Federated Learning, 2021
    (both from memory).
    """

    def run(self, view: View, rng: Rng) -> Reconstruction:
        """Counts of the labels, and the label of a single root."""
        leak = self.leak(view)
        counts = label_counts(leak)
        return Reconstruction(nodes=leak.roots, y=leak.labels(counts), counts=counts)
