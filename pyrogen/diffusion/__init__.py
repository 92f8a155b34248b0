"""Diffusion models: schedules, denoisers, samplers, and the two distributions they make."""
