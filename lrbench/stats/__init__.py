"""Intervals, tests and resampling on arrays, independent of suites."""
