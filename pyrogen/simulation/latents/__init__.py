"""Latent sites as one vector: packing, continuous and discrete numbers, what each must depend on."""
