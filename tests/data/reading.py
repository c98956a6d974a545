"""What tests of layouts share: a task read from a small tree, and its images counted."""

from collections import Counter

from lrbench.config import load_task
from lrbench.data.loading import load_task_data


def counts(data, split):
    return dict(sorted(Counter(data.classes[label] for label in data.splits[split].labels).items()))


def load(name, root, **options):
    return load_task_data(load_task(name), [root], partial=True, **options)


MINE = 'name = "mine"\n\n[files]\nlayout = "folders"\nroot = "mine"\n'
"""A user's class folders, whose split is drawn."""
