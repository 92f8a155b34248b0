"""State-space models: sequences explained by a latent state that moves on from step to step."""
