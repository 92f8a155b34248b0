"""Inverse problems as posterior inference under a generative prior."""
