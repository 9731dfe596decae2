"""Prints the docs page of all recipe cards."""

from __future__ import annotations

import sys

from graphsec.recipes import page

sys.stdout.write(page())
