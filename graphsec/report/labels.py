"""Names for the parts of records: short, and telling apart what differs."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from graphsec.cell import Record


def as_key(spec: Any) -> str:
    """A spec as text, equal for equal specs."""
    return json.dumps(spec, sort_keys=True)


def name_of(spec: Any) -> str:
    """Name in a spec; a composed defense is the sum of its parts."""
    if isinstance(spec, Mapping):
        if spec.get("name") == "compose":
            return " + ".join(name_of(part) for part in spec.get("parts", ()))
        return str(spec.get("name", "?"))
    return str(spec)


def labels(specs: Sequence[Any]) -> dict[str, str]:
    """Spec (as text) → its name, with the fields that tell it from others of that name."""
    by_name: dict[str, dict[str, Any]] = {}
    for spec in specs:
        by_name.setdefault(name_of(spec), {})[as_key(spec)] = spec
    return {
        key: f"{name} {extra}".rstrip()
        for name, variants in by_name.items()
        for key, extra in _differences(variants).items()
    }


def _differences(variants: Mapping[str, Any]) -> dict[str, str]:
    """Spec (as text) → "field=value" of the fields in which the variants differ."""
    flat = {key: _flat(spec) for key, spec in variants.items()}
    fields = sorted({f for spec in flat.values() for f in spec} - {"", "name"})
    differing = [f for f in fields if len({as_key(spec.get(f)) for spec in flat.values()}) > 1]
    return {
        key: " ".join(f"{f}={_plain(spec[f])}" for f in differing if f in spec)
        for key, spec in flat.items()
    }


def _flat(spec: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(spec, Mapping):
        items: Iterable[tuple[Any, Any]] = spec.items()
    elif isinstance(spec, list) and any(isinstance(item, Mapping) for item in spec):
        items = enumerate(spec)
    else:
        return {prefix.rstrip("."): spec}
    found: dict[str, Any] = {}
    for name, value in items:
        found.update(_flat(value, f"{prefix}{name}."))
    return found


def _plain(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def training_labels(records: Sequence[Record]) -> dict[str, str]:
    """Record key → " epochs=50" where records of one model differ in their training."""
    by_model: dict[str, dict[str, Any]] = {}
    for r in records:
        training = r.spec.get("training") or {}
        by_model.setdefault(as_key(r.spec.get("model")), {})[as_key(training)] = training
    labels = {model: _differences(variants) for model, variants in by_model.items()}
    found = {}
    for r in records:
        extra = labels[as_key(r.spec.get("model"))][as_key(r.spec.get("training") or {})]
        found[r.key] = f" {extra}" if extra else ""
    return found


def attacks_with_several_games(records: Sequence[Record]) -> set[str]:
    """Names of attacks that play more than one game here."""
    games: dict[str, set[str]] = {}
    for r in records:
        games.setdefault(name_of(r.spec.get("attack")), set()).add(as_key(r.spec.get("game")))
    return {attack for attack, found in games.items() if len(found) > 1}


def threat_texts(records: Sequence[Record]) -> dict[str, str]:
    """Spec of a threat (as text) → the threat in one line."""
    found: dict[str, str] = {}
    # A cell skipped before it was built has no line of its own, but may share its spec.
    for r in sorted(records, key=lambda r: r.threat, reverse=True):
        threat = r.spec.get("threat") or {}
        found.setdefault(as_key(r.spec.get("threat")), _threat_text(r.threat, threat))
    return found


def _threat_text(line: str, threat: Mapping[str, Any]) -> str:
    text = line or "threat not stated"
    targets = threat.get("targets", "test")
    if targets != "test" and "targets" not in text:
        shown = targets if isinstance(targets, str) else f"{len(targets)} given nodes"
        text += f"; targets: {shown}"
    if threat.get("position", "outside") != "outside" and "position" not in text:
        text += f"; position: {threat['position']}"
    return text


def _amounts(budget: Mapping[str, Any]) -> dict[str, float]:
    return {
        name: value
        for name, value in sorted(budget.items())
        if isinstance(value, int | float) and not isinstance(value, bool)
    }


def budget_text(budget: Mapping[str, Any]) -> str:
    """A budget in words, fractions in per cent."""
    parts = []
    for name, value in _amounts(budget).items():
        amount = f"{100 * value:g} %" if isinstance(value, float) else f"{value}"
        parts.append(f"{name.replace('_', ' ')} {amount}")
    return ", ".join(parts)


def weight(threat: Any) -> tuple[Any, ...]:
    """Orders threats: small budgets first, adaptive before not adaptive."""
    threat = threat if isinstance(threat, Mapping) else {}
    amounts = tuple(_amounts(threat.get("budget") or {}).values())
    return amounts, not threat.get("adaptive", True)
