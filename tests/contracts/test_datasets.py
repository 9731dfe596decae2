"""Every registered dataset keeps the contract of datasets."""

from __future__ import annotations

from graphsec.registry import DATASETS
from graphsec.testing import DatasetContract

for _name in DATASETS:
    _class = "Test_" + "".join(c if c.isalnum() else "_" for c in _name)
    globals()[_class] = type(_class, (DatasetContract,), {"spec": _name})
