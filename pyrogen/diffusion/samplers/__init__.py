"""Samplers: from noise to data with the help of a denoiser."""
