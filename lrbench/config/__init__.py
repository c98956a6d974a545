"""Tasks and suites: TOML files as frozen, validated records."""

from lrbench.config.explain import suggestion
from lrbench.config.loading import load_suite, load_task
from lrbench.config.registry import broken_tasks, find_suites, find_tasks, suite_path
from lrbench.config.suite import Suite
from lrbench.config.task import Task

__all__ = [
    "Suite",
    "Task",
    "broken_tasks",
    "find_suites",
    "find_tasks",
    "load_suite",
    "load_task",
    "suggestion",
    "suite_path",
]
