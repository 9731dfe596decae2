"""A fairness certificate that can be checked: tied to weights that stay confidential.

The protocol, in three messages:

1. The owner publishes ``commitment(predictor, nonce)``: SHA-256 over a secret nonce and weights.
   Graph, nodes, threshold and noise are agreed on.
2. An auditor answers with a ``challenge``, drawn after the commitment was seen.
3. The owner publishes ``state(…)``: the certificate of ``certify_fairness`` with draws that
   commitment and challenge decide, beside the fingerprint of the graph and the nodes.

``check(…)`` is run by whoever was given the predictor, the nonce, graph and nodes (an auditor under
confidentiality, a court): it makes commitment and certificate again, and compares.

What is proven, and to whom. To who checks: these weights are those committed to (SHA-256 is
binding: no other weights are known to give the same digest), and the certificate is theirs, on this
graph and these nodes, with draws that neither side chose: hits can't be fished for. What the
certificate says is in ``FairnessCertificate``. To the public, who has the statement alone: that the
owner is held to one model and one claim, and nothing about either's truth; the weights stay hidden
behind the nonce. **This is no zero-knowledge proof**: no library that is kept up proves statements
of this size, and an auditor sees the weights. Nor is it proven that the model in service is the one
committed to, that the auditor's graph is that of the service, or how the model was trained.

Source: hash commitments are folklore (Halevi & Micali, CRYPTO 1996, for what they rest on); the aim
is that of Yadav et al., FairProof, ICML 2024, which proves in zero knowledge.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from graphsec.defenses.fair.elegant import FairnessCertificate, certify_fairness
from graphsec.graph import Graph
from graphsec.predict import Predictor
from graphsec.rng import Rng

NONCE = 32  # bytes


@dataclass(frozen=True, kw_only=True)
class FairnessStatement:
    """What the owner publishes.

    Attributes:
        commitment: SHA-256 over nonce and weights, in hexadecimal.
        challenge: What the auditor drew, in hexadecimal.
        graph: Fingerprint of the graph.
        nodes: SHA-256 of the nodes that count.
        certificate: What is claimed.
    """

    commitment: str
    challenge: str
    graph: str
    nodes: str
    certificate: FairnessCertificate

    def to_json(self) -> str:
        """One line, with sorted keys."""
        return json.dumps(asdict(self), sort_keys=True)

    @staticmethod
    def from_json(text: str) -> FairnessStatement:
        """The statement of ``to_json``."""
        content = json.loads(text)
        made = FairnessCertificate(**content.pop("certificate"))
        return FairnessStatement(certificate=made, **content)


def commitment(predictor: Predictor, nonce: bytes) -> str:
    """SHA-256 over the nonce, how the predictor came to be, and its weights, in hexadecimal.

    Args:
        predictor: Trained.
        nonce: 32 bytes that nobody else knows and that are used once (``secrets.token_bytes(32)``):
            without it, whoever can guess the weights could tell.

    Raises:
        ValueError: The nonce has another length.
        TypeError: A wrapped model, of which nothing says how it answers.
    """
    if len(nonce) != NONCE:
        raise ValueError(f"nonce must be {NONCE} bytes, got {len(nonce)}")
    if predictor.origin is None:
        raise TypeError("a wrapped model can't be committed to: its weights don't say all it does")
    digest = hashlib.sha256(nonce)
    digest.update(json.dumps(predictor.origin.spec(), sort_keys=True).encode())
    for name, tensor in sorted(predictor.model.state_dict().items()):
        value = tensor.detach().cpu().contiguous()
        digest.update(f"\n{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.numpy().tobytes())
    return digest.hexdigest()


def state(
    predictor: Predictor, nonce: bytes, challenge: bytes, graph: Graph, nodes: Tensor, **noise: Any
) -> FairnessStatement:
    """The statement, with draws that commitment and challenge decide.

    Args:
        predictor: Trained.
        nonce: That of the commitment.
        challenge: The auditor's, drawn after the commitment was seen; 16 bytes or more.
        graph: With groups.
        nodes: (k,) nodes that count.
        noise: Threshold, noise and samples of ``certify_fairness``, agreed on before the challenge.

    Raises:
        ValueError: The challenge is too short.
    """
    if len(challenge) < 16:
        raise ValueError(f"challenge must be 16 bytes or more, got {len(challenge)}")
    committed = commitment(predictor, nonce)
    digest = hashlib.sha256(bytes.fromhex(committed) + challenge).digest()
    rng = Rng(int.from_bytes(digest[:7], "big"))
    return FairnessStatement(
        commitment=committed,
        challenge=challenge.hex(),
        graph=graph.fingerprint,
        nodes=hashlib.sha256(nodes.cpu().numpy().astype(np.int64).tobytes()).hexdigest(),
        certificate=certify_fairness(predictor, graph, nodes, rng["statement"], **noise),
    )


def check(
    statement: FairnessStatement, predictor: Predictor, nonce: bytes, graph: Graph, nodes: Tensor
) -> list[str]:
    """Everything in which a statement differs from what is found again; empty if it holds.

    On the same machine and versions; elsewhere rounding may turn single draws.
    """
    said = statement.certificate
    noise = {k: v for k, v in asdict(said).items() if k != "hits"}
    with torch.no_grad():
        found = state(
            predictor, nonce, bytes.fromhex(statement.challenge), graph, nodes, **noise
        )  # fmt: skip
    return [
        f"{name}: stated {getattr(statement, name)}, found {getattr(found, name)}"
        for name in ("commitment", "graph", "nodes", "certificate")
        if getattr(statement, name) != getattr(found, name)
    ]
