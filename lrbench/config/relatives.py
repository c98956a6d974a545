"""Snapshots that a suite's snapshot is compared with: the previous stage and the controls of the same stage."""

from lrbench.config.arms import ARMS
from lrbench.config.schedule import SnapshotKey, owner, previous_stage
from lrbench.config.suite import Suite

CONTROLS = ("hold", "average")
"""Arms whose snapshots a snapshot of `step` is compared with at the same stage."""

RELATIVES = ("previous", *CONTROLS)
"""Names of the comparisons."""


def related_keys(suite: Suite, key: SnapshotKey) -> dict[str, SnapshotKey]:
    """Return the snapshots that the features of a snapshot are compared with, by name.

    `previous` is the snapshot of the stage before, from which it was trained. A snapshot of `step` is compared with each of
    `CONTROLS` that the suite has, too.
    """
    related: dict[str, SnapshotKey] = {}
    if not ARMS[key.arm].intermediate:
        before = previous_stage(suite.schedule, key)
        if before is not None:
            related["previous"] = before
    if key.arm == "step":
        for arm in CONTROLS:
            if arm in suite.arms and (control := owner(arm, key.stage, suite.schedule)) != "step":
                related[arm] = SnapshotKey(arm=control, seed=key.seed, stage=key.stage)
    return related
