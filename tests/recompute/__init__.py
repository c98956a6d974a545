"""Recompute a suite's main page from its results, without lrbench's statistics, and compare every number with the page.

    python -m tests.recompute SUITE [LEADERBOARD]

It reads `LEADERBOARD/results/SUITE/` and `LEADERBOARD/SUITE.md`. The formulas are those of docs/reference/results.md and
docs/concepts.md. The exit status is 1 if a number differs.
"""
