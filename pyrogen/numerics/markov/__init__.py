"""Markov chains, many at once: kernels that leave a law as it is."""
