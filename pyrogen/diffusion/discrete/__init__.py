"""Diffusion over symbols: hidden or replaced one after another, and found again."""
