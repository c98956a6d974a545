"""Tasks and suites: TOML to frozen, validated records."""

from lrbench.config.explain import suggestion
from lrbench.config.loading import broken_tasks, find_suites, find_tasks, load_suite, load_task, suite_path
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
