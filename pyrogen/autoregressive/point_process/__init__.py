"""Temporal point processes: the times at which events come, and their marks."""
