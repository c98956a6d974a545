"""Helpers of the tests of layouts."""

from collections import Counter

from lrbench.config import load_task
from lrbench.data.loading import load_task_data


def counts(data, split):
    return dict(sorted(Counter(data.classes[label] for label in data.splits[split].labels).items()))


def load(name, root, **options):
    return load_task_data(load_task(name), [root], partial=True, **options)


MINE = 'name = "mine"\n\n[files]\nlayout = "folders"\nroot = "mine"\n'
"""Task of class folders with a drawn split."""
