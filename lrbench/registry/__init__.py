"""Tasks and suites: TOML to frozen, validated records."""

from lrbench.registry.explain import suggestion
from lrbench.registry.loading import broken_tasks, find_suites, find_tasks, load_suite, load_task, suite_path
from lrbench.registry.suite import Suite
from lrbench.registry.task import Task

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
