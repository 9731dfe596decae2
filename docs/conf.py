"""Sphinx settings; ``make docs`` builds the pages."""

from __future__ import annotations

from importlib import metadata

project = "graphsec"
release = metadata.version("graphsec")
extensions = ["myst_nb"]
exclude_patterns = ["_build"]
nb_execution_mode = "off"
myst_enable_extensions = ["dollarmath"]
