"""The work of a suite: its plan, its cost, and the processes that do it."""
