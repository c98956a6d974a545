"""Pretraining with a snapshot at every decay boundary."""
