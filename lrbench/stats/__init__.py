"""Intervals, tests and resampling on arrays; nothing here knows of suites."""
