"""Packages: `lrbench` and, from the folders of their own at the top level, its tasks, suites and studies."""

from setuptools import find_packages, setup

DATA = {"lrbench.tasks": "tasks", "lrbench.suites": "benchmark/suites", "lrbench.study_files": "benchmark/studies"}

setup(packages=[*find_packages(include=["lrbench", "lrbench.*"]), *DATA], package_dir=DATA)
