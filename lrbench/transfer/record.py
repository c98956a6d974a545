"""What a result says of the weights that were transferred, and of how images became their inputs."""

from typing import Any

from lrbench.config.suite import Input
from lrbench.data.examples import EvaluationTransform
from lrbench.models.loading import LoadedSnapshot
from lrbench.store.results import SnapshotRecord


def snapshot_record(snapshot: LoadedSnapshot, *, in_suite: bool) -> SnapshotRecord:
    """What a result says of the snapshot.

    Args:
        snapshot: The snapshot.
        in_suite: Whether it is named as a suite's own; else its result lies among those of foreign ones, whatever its header
            says.
    """
    metadata = snapshot.metadata
    return SnapshotRecord(
        reference=snapshot.reference,
        sha256=snapshot.sha256,
        batchnorm=snapshot.batchnorm,
        architecture=metadata.architecture,
        random=snapshot.random,
        # A suite's snapshot that is named by its path is foreign: it may come from another machine's suite.
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
    )


def preprocessing(
    transform: EvaluationTransform, given: Input, augmentation: str | None, *, upright: bool
) -> dict[str, Any]:
    """How images became inputs; results that differ in it are never ranked together.

    Args:
        transform: How test images are resized and cropped.
        given: The network's input.
        augmentation: Of training images, where the network was trained on them.
        upright: Whether the orientation that images' metadata state was applied.
    """
    return {
        "size": transform.size,
        "resize": transform.resize,
        "interpolation": transform.interpolation,
        "mean": list(given.mean),
        "std": list(given.std),
        **({"crop_mode": "squash"} if transform.squash else {}),
        **({} if augmentation is None else {"augmentation": augmentation}),
        **({"orientation": "upright"} if upright else {}),
    }
