"""Packages: `lrbench` and, from the folders of their own at the top level, its tasks and suites."""

from setuptools import find_packages, setup

DATA = {"lrbench.tasks": "tasks", "lrbench.suites": "benchmark/suites"}

setup(packages=[*find_packages(include=["lrbench", "lrbench.*"]), *DATA], package_dir=DATA)
