"""An audit from a file: what is trained, and how it is looked at."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import Field

from graphsec.audit.trials import AUDITS, Trials
from graphsec.defenses.base import Defense
from graphsec.defenses.base import build as build_defense
from graphsec.registry import DATASETS, Component, SpecError, read_toml
from graphsec.train import Recipe


@dataclass(frozen=True, kw_only=True)
class AuditSpec(Component):
    """Audits of one private training.

    Attributes:
        title: What it is called.
        dataset: Name or spec.
        model: Name or spec.
        defense: Name or spec, of a defense that counts what it spends.
        training: Fields of ``Training`` in which it differs from the model's recipe.
        audits: Names or specs of audits (``graphsec.audit.AUDITS``).
        seed: Training i has seed + i; the data set has seed.
        confidence: That no bound of all these audits is above the true ε.
        delta: δ of the claim; None takes the defense's.

    Raises:
        SpecError: A name or field is wrong, or the parts don't fit.
    """

    name: ClassVar[str] = "spec"
    kind: ClassVar[str] = "audit"

    title: str = "audit"
    dataset: Any
    model: Any = "gcn"
    defense: Any
    training: Mapping[str, Any] = field(default_factory=dict)
    audits: Sequence[Any]
    seed: Annotated[int, Field(ge=0)] = 0
    confidence: Annotated[float, Field(gt=0, lt=1)] = 0.95
    delta: Annotated[float, Field(gt=0, lt=1)] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        made = {
            "dataset": DATASETS.build(self.dataset),
            "defense": build_defense(self.defense),
            "audits": tuple(AUDITS.build(audit) for audit in self.audits),
        }
        for name, value in made.items():
            object.__setattr__(self, name, value)
        if not self.audits:
            raise SpecError("audit 'spec': audits must not be empty")
        reason = self.defense.refuses(self.recipe)
        if reason:
            raise SpecError(f"audit 'spec': defense {self.defense.name!r} {reason}")
        for audit in self.audits:
            audit.check(self.recipe, self.defense)
        if self.delta is None and getattr(self.defense, "delta", None) is None:
            raise SpecError(
                f"audit 'spec': delta is missing: {self.defense.name!r} has none, so it claims "
                "nothing that could be audited"
            )

    @staticmethod
    def from_toml(path: str | Path) -> AuditSpec:
        """Audits from a TOML file whose keys are the fields.

        Raises:
            SpecError: Not TOML, or not such a spec.
            OSError: The file can't be read.
        """
        known = [f.name for f in dataclasses.fields(AuditSpec)]
        content = read_toml(path, known, ["dataset", "defense", "audits"])
        return AuditSpec(**{"title": Path(path).stem, **content})

    @cached_property
    def recipe(self) -> Recipe:
        """Model and training."""
        return Recipe.of(self.model, dict(self.training))

    @property
    def at(self) -> float:
        """δ."""
        found: Any = self.delta if self.delta is not None else self.defense.delta
        return float(found)

    def units(self) -> list[list[Unit]]:
        """The trainings of each audit."""
        return [
            [Unit(self, audit, self.seed + i) for i in range(audit.trainings)]
            for audit in self.audits
        ]


@dataclass(frozen=True, eq=False)
class Unit:
    """One training of an audit: what the store keeps, and does not do again.

    Attributes:
        of: The audits.
        audit: The one that it belongs to.
        seed: Of the training, the coins and the attack.
    """

    of: AuditSpec
    audit: Trials
    seed: int

    def spec(self) -> dict[str, Any]:
        """All that its scores depend on, in the form of a cell's; how many there are is left out.

        Without a threat: tables of attacks leave it out.
        """
        audit = self.audit.spec()
        del audit["trainings"]
        return {
            "dataset": self.of.dataset.spec(), "model": self.of.recipe.model.spec(),
            "training": self.of.recipe.training.spec(), "defense": self.of.defense.spec(),
            "attack": {**audit, "name": f"audit-{self.audit.name}"}, "threat": {},
            "game": {"name": "membership"}, "seed": self.seed, "data_seed": self.of.seed,
            "delta": self.of.at,
        }  # fmt: skip

    @cached_property
    def key(self) -> str:
        """Hash of the spec and the versions of what it names."""
        parts: list[Component] = [self.audit, self.of.dataset, self.of.defense]
        made = {"versions": [p.version for p in (*parts, self.of.recipe.model)], **self.spec()}
        text = json.dumps(made, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:20]

    @property
    def row(self) -> str:
        """A row of its own: every unit trains."""
        return self.key


def claims(defense: Defense, recipe: Recipe) -> bool:
    """Whether a defense ever makes a statement; "as published" it makes none."""
    published = getattr(defense, "sampler", "") == "published"
    return not (published and recipe.model.module.capabilities.uses_edges)
