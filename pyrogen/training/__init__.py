"""Training: ``fit``, its turns and run, checkpoints, averages, processes."""
