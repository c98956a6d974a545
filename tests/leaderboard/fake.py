"""Made-up results with known numbers, written like real ones."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as arrow
import pyarrow.parquet as parquet

from lrbench.config import Suite, load_task
from lrbench.config.protocols import PROTOCOLS
from lrbench.core.files import sha256_file, sha256_json
from lrbench.core.workspace import Workspace
from lrbench.store.cells import TransferSettings, task_sha256
from lrbench.store.predictions import Predictions
from lrbench.store.results import write_result
from lrbench.store.suites import write_suite_with_results

LABELS = {"tiny-objects": np.arange(40) % 4, "tiny-indoor": np.arange(40) % 10, "tiny-source": np.arange(40) % 4}

LATER = "2026-11-30T00:00:00Z"
"""Time of computation of results that a registration may cover."""


def put(
    workspace: Workspace,
    suite: Suite,
    *,
    arm: str = "step",
    stage: int = 1,
    seed: int = 0,
    target: str = "tiny-objects",
    protocol: str = "probe",
    wrong: int = 10,
    source: float = 0.5,
    transfer_seed: int = 0,
    missed: Sequence[int] | None = None,
    **changes: Any,
) -> Path:
    """Write one result with `wrong` wrong predictions, starting at test image `seed`, or with those of images `missed`."""
    labels = LABELS[target].astype(np.int64)
    prediction = labels.copy()
    missed = (np.arange(wrong) + seed) % len(labels) if missed is None else missed
    prediction[missed] = (labels[missed] + 1) % (labels.max() + 1)
    correct = prediction == labels
    per_class = float(np.mean([correct[labels == label].mean() for label in np.unique(labels)]))
    record: dict[str, Any] = {
        "protocol_version": 1,
        "suite": suite.name,
        "snapshot": {
            "reference": f"{suite.name}/{arm}/seed{seed}/stage{stage}",
            "sha256": f"{arm}{seed}{stage}".ljust(64, "0"),
            "batchnorm": "re-estimated",
            "architecture": "resnet18",
            "arm": arm,
            "stage": stage,
            "pretraining_seed": seed,
            "source_task": "tiny-source",
            "source_fingerprint": "f" * 64,
            "source_accuracy": source,
            "source_report": {"simple": 0.9, "complex": 0.2, "memorised": 0.1},
        },
        "task": {"name": target, "fingerprint": "a" * 64, "classes": int(labels.max()) + 1, "metric": "top1"},
        "protocol": protocol,
        "seed": transfer_seed,
        "preprocessing": {"size": 32},
        "partial": False,
        "metrics": {"top1": float(correct.mean()), "top5": 1.0, "mean_per_class": per_class},
        "train_count": 48,
        "test_count": len(labels),
        "chosen": {"strength": 1.0},
        "selection": {"metric": "top1", "edge": False, "candidates": []},
        "diagnostics": {},
        "device": "cpu",
        "versions": {"lrbench": "0"},
    }
    for name, value in changes.items():
        if isinstance(value, dict) and isinstance(record.get(name), dict):
            record[name] = {**record[name], **value}
        else:
            record[name] = value
    write_suite_with_results(workspace, suite)
    predictions = Predictions(
        index=np.arange(len(labels)),
        label=labels,
        prediction=prediction,
        images=[f"test/{index:03d}.png" for index in range(len(labels))],
        classes=[f"class {label}" for label in range(int(labels.max()) + 1)],
    )
    return write_result(workspace.results, record, predictions)


def put_registered(
    workspace: Workspace,
    suite: Suite,
    *,
    target: str = "tiny-objects",
    protocol: str = "probe",
    computed: str | None = LATER,
    **changes: Any,
) -> Path:
    """Write a result with the settings and the protocol version that are registered, unless they are changed."""
    settings = {"task_sha256": task_sha256(load_task(target)), **TransferSettings.of(suite).of_protocol(protocol)}
    defaults = {"settings": settings, "protocol_version": PROTOCOLS[protocol].version, "computed": computed}
    return put(workspace, suite, target=target, protocol=protocol, **{**defaults, **changes})


def put_source(workspace: Workspace, suite: Suite, *, wrong: int = 20, **others: Any) -> Path:
    """Write one snapshot's predictions of its source's test images, and an accuracy that agrees with them."""
    accuracy = 1 - wrong / len(LABELS["tiny-source"])
    return put(
        workspace,
        suite,
        target="tiny-source",
        protocol="source",
        wrong=wrong,
        source=accuracy,
        **{"chosen": {}} | others,
    )


def rewrite(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change a record and give it the hash of its new content."""
    record = json.loads(path.read_text())
    record.pop("record_sha256")
    change(record)
    path.write_text(json.dumps({**record, "record_sha256": sha256_json(record)}))


def rewrite_predictions(path: Path, table: arrow.Table) -> None:
    """Replace a record's predictions, and the hash by which the record names them."""
    predictions = path.with_suffix(".parquet")
    parquet.write_table(table, predictions)
    rewrite(path, lambda record: record.update(predictions_sha256=sha256_file(predictions)))


def fill(workspace: Workspace, suite: Suite, wrong: Any = lambda row, seed, task: 10) -> None:
    """Write every cell of a suite."""
    from lrbench.config.schedule import snapshot_keys

    for key in snapshot_keys(suite):
        for task in suite.targets:
            for protocol in suite.protocols:
                count = wrong((key.arm, key.stage), key.seed, task)
                source = 0.05 + 0.2 * key.stage + 0.01 * key.seed
                put(
                    workspace,
                    suite,
                    arm=key.arm,
                    stage=key.stage,
                    seed=key.seed,
                    target=task,
                    protocol=protocol,
                    wrong=count,
                    source=source,
                )
