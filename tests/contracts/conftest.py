"""The contract suites' asserts explain themselves like any test's."""

from __future__ import annotations

import pytest

pytest.register_assert_rewrite("graphsec.testing")
