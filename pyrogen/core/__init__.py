"""What all families share: modules, densities, objectives, recipes, saving."""
