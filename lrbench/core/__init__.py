"""Errors, files, locks, random streams and processes, used by every other package."""
