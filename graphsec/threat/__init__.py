"""Threat models: what an attacker may see and change, and the View that enforces it."""

from __future__ import annotations

from graphsec.threat.access import Access, AccessDenied, Budget, BudgetExceeded
from graphsec.threat.model import Threat, Timing
from graphsec.threat.view import View

__all__ = ["Access", "AccessDenied", "Budget", "BudgetExceeded", "Threat", "Timing", "View"]
