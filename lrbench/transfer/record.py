"""The record of a result: scores and choice of a protocol, the weights, and how images became inputs."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from lrbench.config import Task
from lrbench.config.protocols import PROTOCOLS, find_protocol
from lrbench.config.suite import Input
from lrbench.core.machine import device_name, float32_modes, library_versions, utc_now
from lrbench.data.examples import EvaluationTransform, TaskData
from lrbench.models.loading import LoadedSnapshot
from lrbench.store.cells import Cell, TransferSettings
from lrbench.store.results import SnapshotRecord
from lrbench.transfer.metrics import accuracies, calibration, metrics
from lrbench.transfer.selection import Choice


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """Outcome of a protocol, before the test labels are opened.

    Attributes:
        choice: The selected hyper-parameters.
        scores: Scores of the test images. Shape `(M, C)`.
        train_count: Number of images of the final fit.
        diagnostics: Diagnostics of the final fit and of the features.
        timings: Seconds of each step.
        by_shots: Predictions of fits on other numbers of training images per class, by that number. Each of shape `(M,)`.
    """

    choice: Choice
    scores: torch.Tensor
    train_count: int
    diagnostics: dict[str, Any]
    timings: dict[str, float]
    by_shots: Mapping[int, torch.Tensor] = field(default_factory=dict)


def snapshot_record(snapshot: LoadedSnapshot, *, in_suite: bool) -> SnapshotRecord:
    """Return the `snapshot` entry of a result.

    Args:
        snapshot: The snapshot.
        in_suite: Whether it was named as a snapshot of a suite. A suite's file that is named by its path counts as foreign,
            because it may come from the same suite of another machine.
    """
    metadata = snapshot.metadata
    return SnapshotRecord(
        reference=snapshot.reference,
        sha256=snapshot.sha256,
        batchnorm=snapshot.batchnorm,
        architecture=metadata.architecture,
        random=snapshot.random,
        arm=metadata.arm if in_suite else None,
        stage=metadata.stage if in_suite else None,
        pretraining_seed=metadata.seed if in_suite else None,
        epoch=metadata.epoch,
        update=metadata.update,
        rate=metadata.rate,
        source_task=metadata.source_task,
        source_fingerprint=metadata.source_fingerprint,
        source_partial=metadata.source_partial,
        source_accuracy=metadata.source_accuracy,
        source_report=metadata.source_report,
        stage_rules=metadata.stage_rules or {},
    )


def preprocessing(task: Task, given: Input, settings: TransferSettings, cell: Cell) -> dict[str, Any]:
    """Return the `preprocessing` entry of a result; results that differ in it are never ranked together.

    Args:
        task: The task whose images are read.
        given: The network's input.
        settings: Settings of the transfer, which have the augmentation of fine-tuning.
        cell: The cell.
    """
    transform = EvaluationTransform.of(given)
    return {
        "size": transform.size,
        "resize": transform.resize,
        "interpolation": transform.interpolation,
        "mean": list(given.mean),
        "std": list(given.std),
        **({"crop_mode": "squash"} if transform.squash else {}),
        **({"augmentation": settings.finetune.augmentation} if find_protocol(cell.protocol).trains else {}),
        **({"orientation": "upright"} if task.upright else {}),
    }


def result_record(
    cell: Cell,
    data: TaskData,
    outcome: Outcome,
    labels: torch.Tensor,
    *,
    suite: str,
    snapshot: SnapshotRecord,
    preprocessing: dict[str, Any],
    settings: dict[str, Any],
    split_sha256: str | None,
    has_validation_split: bool,
    device: torch.device,
) -> dict[str, Any]:
    """Return the record of a result, without the entries that `write_result` adds.

    Args:
        cell: The cell.
        data: The task's classes and splits.
        outcome: Outcome of the protocol.
        labels: Labels of the test images. Shape `(M,)`.
        suite: Folder of the result.
        snapshot: The `snapshot` entry.
        preprocessing: The `preprocessing` entry.
        settings: The `settings` entry.
        split_sha256: Hash of the list of test images, if lrbench drew them.
        has_validation_split: Whether hyper-parameters are selected on the data set's own validation split.
        device: Device of the computation.
    """
    protocol, task, choice = find_protocol(cell.protocol), data.task, outcome.choice
    measured, diagnostics = metrics(outcome.scores, labels), outcome.diagnostics
    if protocol.logits:
        error, likelihood = calibration(outcome.scores, labels)
        measured = {**measured, "expected_calibration_error": error}
        diagnostics = {**diagnostics, "negative_log_likelihood": likelihood}
    if outcome.by_shots:
        curve = {
            str(shots): accuracies(predicted, labels, len(data.classes))
            for shots, predicted in outcome.by_shots.items()
        }
        diagnostics = {**diagnostics, "shots": curve}
    validation = "validation split" if has_validation_split else "held-out share of train"
    return {
        "protocol_version": protocol.version,
        "suite": suite,
        "snapshot": snapshot.model_dump(mode="json"),
        "task": {
            "name": task.name,
            "fingerprint": data.identity.fingerprint,
            "content_sha256": data.identity.content,
            "classes": len(data.classes),
            "metric": task.metric,
            **({} if split_sha256 is None else {"split_sha256": split_sha256}),
            **({"partial": True} if data.partial else {}),
        },
        "protocol": cell.protocol,
        "seed": cell.seed,
        "preprocessing": preprocessing,
        "partial": data.partial or snapshot.source_partial,
        "metrics": measured,
        "train_count": outcome.train_count,
        "test_count": len(labels),
        "chosen": choice.chosen,
        "selection": {
            "metric": choice.metric,
            "on": validation if choice.candidates else "nothing: fixed beforehand",
            "edge": choice.edge,
            "candidates": list(choice.candidates),
        },
        "diagnostics": diagnostics,
        "settings": settings,
        "timings": {name: round(seconds, 4) for name, seconds in outcome.timings.items()},
        "device": device_name(device),
        "arithmetic": float32_modes(device),
        "versions": {**library_versions(), **PROTOCOLS.versions(cell.protocol)},
        "computed": utc_now(),
    }
