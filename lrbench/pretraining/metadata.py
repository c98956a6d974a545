"""Metadata of a pretrained snapshot."""

import torch

from lrbench.config import Suite
from lrbench.config.arms import ARMS
from lrbench.config.schedule import Segment, learning_rate, next_segment
from lrbench.core.machine import library_versions, source_revision
from lrbench.pretraining.source import Source, SourceScores
from lrbench.pretraining.state import Progress
from lrbench.store.snapshots import SnapshotMetadata
from lrbench.store.suites import recipe


def snapshot_metadata(
    suite: Suite,
    trained: Segment,
    end: Progress,
    source: Source,
    scores: SourceScores,
    raw_accuracy: float,
    *,
    device: torch.device,
    updates_per_epoch: int,
    stage_end: dict[str, float] | None,
    stage_rules: dict[str, int | None] | None,
) -> SnapshotMetadata:
    """Return the metadata of the snapshot at the end of a segment.

    Args:
        suite: The suite.
        trained: The segment.
        end: The progress at its end.
        source: The prepared source task.
        scores: Scores on the source with the re-estimated BatchNorm statistics.
        raw_accuracy: Accuracy with the running statistics.
        device: Device of the training.
        updates_per_epoch: Updates in an epoch.
        stage_end: Decision of the rule of adaptive arms; None if no arm asks for it.
        stage_rules: Epoch at which each rule would have ended the stage; None if the suite does not ask for it.
    """
    key = trained.key
    kept = {epoch: epoch in end.kept_momentum for epoch in sorted(end.kept)}
    return SnapshotMetadata(
        architecture=suite.model.architecture,
        arguments=suite.model.arguments,
        classes=len(source.data.classes),
        input=suite.input,
        suite=suite.name,
        arm=key.arm,
        stage=key.stage,
        seed=key.seed,
        # A rule may have ended the stage before its last epoch.
        epoch=end.update // updates_per_epoch if trained.adaptive else trained.last_epoch,
        update=end.update,
        rate=learning_rate(suite.schedule, trained, end.update - 1, updates_per_epoch) if key.stage else None,
        next_rate=_next_rate(suite, trained, end.update, updates_per_epoch),
        parent=None if trained.parent is None else str(trained.parent),
        parent_sha256=end.parent_sha256,
        stage_end=stage_end,
        stage_rules=stage_rules,
        paced_epochs=trained.paced_epochs,
        kept=None if trained.derived or not key.stage else kept,
        batchnorm_shared=end.batchnorm_shared,
        threads=suite.training.threads if device.type == "cpu" else None,
        recipe=recipe(suite),
        source_task=suite.source_of(key.seed),
        source_fingerprint=source.fingerprint,
        source_partial=source.data.partial,
        source_accuracy=round(scores.accuracy, 8),
        source_accuracy_raw=round(raw_accuracy, 8),
        source_report={name: round(value, 8) for name, value in scores.report.items()},
        versions={**library_versions(), **ARMS.versions(key.arm)},
        revision=source_revision(),
    )


def _next_rate(suite: Suite, trained: Segment, update: int, updates_per_epoch: int) -> float | None:
    """Return the learning rate of the update after the snapshot; None after the last stage."""
    following = trained if ARMS[trained.key.arm].intermediate else next_segment(suite, trained.key)
    return None if following is None else learning_rate(suite.schedule, following, update, updates_per_epoch)
