"""Data of tasks: from files or a seed to labelled, prepared images and training batches."""
