"""Numerical mathematics that knows no Pyro."""
