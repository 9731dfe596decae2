"""Differential privacy of nodes: what a step spends, gradients of one root each, stable graphs.

``accountant`` needs the ``privacy`` extra (dp-accounting), and is imported where it is used.
"""
