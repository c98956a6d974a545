"""Verification of a snapshot: everything that can be checked without its source's images."""

from pathlib import Path

from lrbench.core.errors import InputError
from lrbench.models.loading import load_snapshot
from lrbench.models.tensors import load_tensors, negative_variance, not_finite
from lrbench.store.headers import GET_IT_AGAIN
from lrbench.store.references import WeightsFile
from lrbench.store.snapshots import batchnorm_path, read_metadata, replaced_parent


def verify_snapshot(path: Path) -> None:
    """Check a snapshot's header, names, shapes, hashes and values, its BatchNorm statistics, and its parent.

    Raises:
        InputError: A check failed.
    """
    load_snapshot(WeightsFile(text=str(path), path=path))
    if (parent := replaced_parent(path, read_metadata(path))) is not None:
        raise InputError(
            f"{path} was computed from earlier weights of {parent}, which was replaced later. Remove the snapshot and run "
            "the same pretraining again."
        )
    for part in (path, batchnorm_path(path)):
        if part.is_file():
            tensors = load_tensors(part)
            if (name := not_finite(tensors)) is not None:
                raise InputError(f"{part} holds values in {name} that are not finite. {GET_IT_AGAIN}")
            if (name := negative_variance(tensors)) is not None:
                raise InputError(f"{part} holds a negative variance in {name}. {GET_IT_AGAIN}")
