"""Helpers of the tests of jobs: an observer that remembers, what jobs noted, and which locks are held."""

import re
from pathlib import Path


class Watcher:
    """Remembers reports and messages."""

    def __init__(self):
        self.lines, self.messages = [], []

    def started(self, job):
        pass

    def progressed(self, job, done, total, unit):
        pass

    def finished(self, job, line):
        self.lines.append(line)

    def reported(self, text):
        self.messages.append(text)


def notes(place):
    """Return the names that jobs appended to a file of the workspace."""
    path = place.workspace.root / "notes.txt"
    return path.read_text().split() if path.is_file() else []


def held_locks(folder):
    """Return the lock files in a folder that processes hold."""
    inodes = set(re.findall(r":(\d+) ", Path("/proc/locks").read_text()))
    held = []
    for path in folder.rglob(".*.lock"):
        try:
            if str(path.stat().st_ino) in inodes:
                held.append(path)
        except FileNotFoundError:
            continue
    return held
