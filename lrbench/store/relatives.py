"""Related snapshots of a suite's snapshot, and whether a stored comparison with them is up to date."""

from lrbench.config.relatives import related_keys
from lrbench.store.references import Reference, SuiteSnapshot
from lrbench.store.results import Result
from lrbench.store.snapshots import identity


def related_snapshots(reference: Reference) -> dict[str, SuiteSnapshot]:
    """Return the snapshots that the features of a snapshot are compared with, by name; empty outside of suites."""
    if not isinstance(reference, SuiteSnapshot):
        return {}
    return {
        name: SuiteSnapshot(suite=reference.suite, key=key, checkpoints=reference.checkpoints)
        for name, key in related_keys(reference.suite, reference.key).items()
    }


def is_comparison_stale(result: Result, reference: Reference) -> bool:
    """Return whether a related snapshot exists that a result was not compared with, or whose weights have changed since."""
    compared = result.diagnostics.get("similarity")
    for name, related in related_snapshots(reference).items():
        if related.path.is_file():
            stored = compared.get(name) if isinstance(compared, dict) else None
            if not isinstance(stored, dict) or stored.get("sha256") != identity(related.path):
                return True
    return False
