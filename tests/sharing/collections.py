"""Names in the collections of the tests."""

TASKS = ("--task", "tiny-objects", "--task", "tiny-indoor")
"""Options that send the results on the tiny suite's tasks."""
CELL = "step-seed0-stage1.tiny-objects.probe.seed0"
"""Cell of the first result of the fixture `sent`."""
