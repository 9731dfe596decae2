"""Audits of private training: what was found out proves that ε is at least so much.

``bounds`` turns scores and truth into a bound; ``trials`` trains with canaries and scores them;
``spec`` and ``run`` are ``graphsec audit``.
"""

from graphsec.audit.bounds import (
    Audit,
    Correction,
    many_runs,
    many_runs_epsilon,
    one_run,
    one_run_epsilon,
)

__all__ = ["Audit", "Correction", "many_runs", "many_runs_epsilon", "one_run", "one_run_epsilon"]
