"""Suites as run, snapshots and results on disk. Nothing here imports torch at import time."""
