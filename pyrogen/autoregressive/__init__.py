"""Autoregressive models: exact likelihoods as chains of conditionals, fast generation, any order."""
