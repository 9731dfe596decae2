"""Contract suites: subclass one, name your component, and pytest checks what graphsec relies on.

::

    from graphsec.testing import AttackContract

    class TestMyAttack(AttackContract):
        spec = {"name": "my-attack", "steps": 10}

The suites need pytest only to be run, not to be imported. Tests whose argument is ``graph`` run
on each of the class's ``graphs``.
"""

from __future__ import annotations

from graphsec.testing.attacks import AttackContract
from graphsec.testing.common import Contract, disturb, some_flips, tiny_graphs
from graphsec.testing.datasets import DatasetContract
from graphsec.testing.defenses import DefenseContract
from graphsec.testing.models import ModelContract
from graphsec.testing.ranking import RankingContract, tiny_rankings
from graphsec.testing.rating import RatingContract, tiny_ratings

__all__ = [
    "AttackContract",
    "Contract",
    "DatasetContract",
    "DefenseContract",
    "ModelContract",
    "RankingContract",
    "RatingContract",
    "disturb",
    "some_flips",
    "tiny_graphs",
    "tiny_rankings",
    "tiny_ratings",
]
