"""The words of pyrogen: modules, densities, objectives, training, checkpoints."""
