"""Compiled CPU kernels; only ``graphsec.ops`` imports them."""
