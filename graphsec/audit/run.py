"""Run audits: one training after another through the store, then bounds and a verdict."""

from __future__ import annotations

import math
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from graphsec.audit.bounds import Audit, many_runs, one_run
from graphsec.audit.spec import AuditSpec, Unit, claims
from graphsec.audit.trials import Lab, claimed
from graphsec.cell import Record
from graphsec.costs import peak_memory, reset_peak_memory, versions
from graphsec.metrics.base import Curve, Metric
from graphsec.owners import new_owner
from graphsec.rng import Rng
from graphsec.store import Store

Progress = Callable[[int, int], None]


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What one audit found.

    Attributes:
        title: The audit in words.
        claim: ε by the accountant, the largest of all trainings.
        promised: Whether graphsec makes a claim of it.
        audit: The bound, at a part of the error that all audits share.
        guesses: Canaries that were guessed about, in all trainings.
        trainings: Their number.
    """

    title: str
    claim: float
    promised: bool
    audit: Audit
    guesses: int
    trainings: int

    @property
    def refuted(self) -> bool:
        """Whether the bound is above the claim."""
        return self.audit.epsilon > self.claim

    def text(self) -> str:
        """One line: the bound beside the claim, and what it could have been."""
        a = self.audit
        whose = "claimed" if self.promised else "by its accountant, not claimed"
        word = "COUNTER-EXAMPLE" if self.refuted else "not contradicted"
        could = (
            f"would have refuted any ε < {a.ceiling:.2f} had every guess been right"
            if a.ceiling > self.claim
            else f"could not have refuted it: so few guesses show {a.ceiling:.2f} at most"
        )
        return (
            f"{self.title}: {word}: ε = {self.claim:.3f} {whose}, lower bound {a.epsilon:.3f} at "
            f"δ = {a.delta:g}, by {self.guesses} guesses in {_count(self.trainings, 'training')}; "
            f"{could}"
        )


def run(
    spec: AuditSpec,
    store: str,
    *,
    retry_failed: bool = False,
    progress: Progress | None = None,
) -> list[Verdict]:
    """Run what the store does not have yet, and judge.

    Interrupted, the same call goes on with the training that was interrupted. Shadow models are
    not kept: what goes on trains them again.

    Args:
        spec: The audits.
        store: URL of the store, or path of an SQLite file.
        retry_failed: Whether trainings that failed before are run again.
        progress: Called with trainings done and to be done.

    Raises:
        AuditError: A training failed.
        StoreError: The store can't be read or written.
    """
    groups = spec.units()
    units = {unit.key: unit for group in groups for unit in group}
    labs: dict[int, Lab] = {}
    owner = new_owner()
    with Store(store) as opened, _given_back(opened, owner):
        opened.add(units.values())
        opened.release_dead(blame=False)
        if retry_failed:
            opened.retry(list(units))
        done = sum(status.state in ("done", "failed") for status in opened.statuses(list(units)))
        while claims_ := opened.claim(owner, list(units)):
            for claim in claims_:
                if opened.start(claim.key, owner):
                    opened.finish(_record(units[claim.key], labs), owner)
                done += 1
                if progress is not None:
                    progress(done, len(units))
        records = {record.key: record for record in opened.records(list(units))}
    missing = [key for key in units if key not in records]
    if missing:
        raise AuditError(f"{len(missing)} trainings are being run by another process; come back")
    failed = [record for record in records.values() if record.status != "done"]
    if failed:
        raise AuditError(
            f"{len(failed)} of {len(records)} trainings failed; the first ({failed[0].key}): "
            f"{failed[0].reason.strip().splitlines()[-1]}"
        )
    return [judge(spec, group, [records[unit.key] for unit in group]) for group in groups]


class AuditError(RuntimeError):
    """An audit could not be brought to a verdict."""


@contextmanager
def _given_back(store: Store, owner: str) -> Iterator[None]:
    try:
        yield
    finally:
        store.release(owner)


def _record(unit: Unit, labs: dict[int, Lab]) -> Record:
    """One training; an exception becomes a failed record."""
    known: dict[str, Any] = {
        "key": unit.key, "row": unit.row, "spec": unit.spec(), "versions": versions()
    }  # fmt: skip
    reset_peak_memory()
    start = time.perf_counter()
    try:
        lab = labs.get(id(unit.audit))
        if lab is None:
            graph = unit.of.dataset.load(Rng(unit.of.seed)["data"])
            lab = labs[id(unit.audit)] = unit.audit.lab(graph, unit.of.recipe, unit.of.defense)
        trial = unit.audit.trial(lab, Rng(unit.seed)["audit"])
        spent = claimed(trial.predictor, unit.of.at)
    except Exception:
        return Record(status="failed", reason=traceback.format_exc(), **known)
    scores = Curve(
        tuple(trial.scores.double().tolist()), tuple(trial.truth.double().tolist()),
        "score", "in training",
    )  # fmt: skip
    epsilon = Metric(spent, False, 0, math.inf, "ε by the accountant")
    return Record(
        status="done",
        metrics={"epsilon": epsilon.spec()},
        curves={"scores": scores.spec()},
        threat="auditor: knows all but coins and noise",
        cost={"train_seconds": time.perf_counter() - start, "peak_memory_mb": peak_memory()},
        graph={"name": lab.graph.name, "nodes": lab.graph.num_nodes, "edges": lab.graph.num_edges},
        **known,
    )


def judge(spec: AuditSpec, units: Sequence[Unit], records: Sequence[Record]) -> Verdict:
    """The bound of one audit, from the records of its trainings.

    Of k audits each gets a k-th of the error. All trainings of a one-run audit count as one
    mechanism, in which every canary has a coin of its own.
    """
    audit = units[0].audit
    level = 1 - (1 - spec.confidence) / len(spec.audits)
    scores = torch.tensor([v for r in records for v in r.curves["scores"]["x"]])
    truth = torch.tensor([v for r in records for v in r.curves["scores"]["y"]])
    if audit.bound == "many-runs":
        found = many_runs(
            scores[truth > 0], scores[truth == 0], spec.at,
            thresholds=audit.thresholds, confidence=level,
        )  # fmt: skip
    else:
        found = one_run(scores, truth, spec.at, Rng(spec.seed)["ties"].numpy(), confidence=level)
    return Verdict(
        title=describe(audit), claim=max(record.value("epsilon") for record in records),
        promised=claims(spec.defense, spec.recipe), audit=found,
        guesses=len(scores), trainings=len(records),
    )  # fmt: skip


def describe(audit: Any) -> str:
    """An audit in a few words."""
    if audit.name == "canaries":
        return f"{audit.shape} canaries, {audit.sees}, {audit.bound}"
    return f"{audit.attack.name}, {audit.bound}"


def conclusion(spec: AuditSpec, verdicts: Sequence[Verdict]) -> str:
    """What all audits say together."""
    claim = max(verdict.claim for verdict in verdicts)
    best = max(verdicts, key=lambda v: v.audit.epsilon)
    sure = f"confidence {spec.confidence:g}, of {_count(len(verdicts), 'audit')} together"
    if any(verdict.refuted for verdict in verdicts):
        return (
            f"{spec.title}: counter-example: {best.title} shows ε ≥ {best.audit.epsilon:.3f}, "
            f"{'claimed' if best.promised else 'by its accountant, not claimed,'} "
            f"{best.claim:.3f} ({sure})"
        )
    return (
        f"{spec.title}: no bound is above ε = {claim:.3f}, the largest is "
        f"{best.audit.epsilon:.3f} ({sure}); this proves no claim"
    )


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}{'s' * (number != 1)}"
