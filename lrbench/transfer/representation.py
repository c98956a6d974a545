"""Comparison of a snapshot's features with those of related snapshots, and their description on the source."""

import time
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from lrbench.core.control import Control
from lrbench.core.errors import InputError, InterruptedWork
from lrbench.core.workspace import Place
from lrbench.data.pixels import Pixels
from lrbench.models.devices import to_device
from lrbench.models.folding import fold_batchnorm
from lrbench.models.inference import forward_all
from lrbench.models.loading import load_snapshot
from lrbench.models.networks import penultimate
from lrbench.store.relatives import related_snapshots
from lrbench.transfer.diagnostics import describe_features
from lrbench.transfer.features import Network
from lrbench.transfer.similarity import linear_cka
from lrbench.transfer.source import open_source_images
from lrbench.transfer.target import Target


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Entries for a result.

    Attributes:
        diagnostics: `similarity`: for each related snapshot its reference, hash and linear CKA. `source_features`: description
            of the features of the source's test images (`describe_features`); missing without those images.
        timings: Seconds of each.
    """

    diagnostics: dict[str, Any] = field(default_factory=dict)
    timings: dict[str, float] = field(default_factory=dict)


class Representation:
    """Features of one snapshot, compared with those of related snapshots.

    Args:
        network: The snapshot.
        place: Folders of data and caches.
        control: Receives progress and may request a stop.
    """

    def __init__(self, network: Network, place: Place, control: Control) -> None:
        self._network = network
        self._place = place
        self._control = control
        self._source: dict[str, float] | None = None

    def compare(self, target: Target, features: torch.Tensor) -> Comparison:
        """Compare the features of a target's test images. Related snapshots that do not exist yet are left out.

        Args:
            target: The target.
            features: Features of its test images under the snapshot. Shape `(M, D)`.

        Raises:
            InterruptedWork: A stop was requested.
        """
        started = time.perf_counter()
        similarity: dict[str, Any] = {}
        for name, reference in related_snapshots(self._network.reference).items():
            if not reference.path.is_file():
                continue
            snapshot = load_snapshot(reference)
            model = fold_batchnorm(to_device(snapshot.model, self._network.device))
            others = self._extract(model, target.test, f"images, {name}").to(features.device)
            similarity[name] = {"reference": reference.text, "sha256": snapshot.sha256}
            if (value := linear_cka(features, others)) is not None:
                similarity[name]["cka"] = value
        compared = time.perf_counter()
        if self._source is None:
            self._source = self._describe_source()
        return Comparison(
            diagnostics={
                "similarity": similarity,
                **({"source_features": self._source} if self._source else {}),
            },
            timings={"similarity": compared - started, "source": time.perf_counter() - compared},
        )

    def _describe_source(self) -> dict[str, float]:
        """Return the description of the source's test images; empty if the snapshot has no source or its images are missing."""
        metadata, place = self._network.snapshot.metadata, self._place
        if metadata.source_task is None:
            return {}
        try:
            prepared = open_source_images(
                metadata.source_task,
                metadata.input,
                ("test",),
                place.roots,
                place.partial,
                place.pixel_cache,
                self._control,
            )
        except InputError as error:
            self._control.say(f"the features are not described on the source: {error}")
            return {}
        # Other images than those of pretraining would not be the source's.
        if prepared.data.fingerprint != metadata.source_fingerprint:
            return {}
        features = self._extract(self._network.inference, prepared.pixels["test"], "images of the source")
        labels = torch.from_numpy(prepared.data.splits["test"].labels)
        return describe_features(features.to(self._network.device), labels, len(prepared.data.classes))

    def _extract(self, model: nn.Module, pixels: Pixels, unit: str) -> torch.Tensor:
        def watch(count: int) -> None:
            self._control.progress(count, len(pixels), unit)
            if self._control.stop_requested():
                raise InterruptedWork(
                    "stopped while comparing features. Finished cells are saved. Run the same command again to continue."
                )

        return forward_all(
            lambda images: penultimate(model, images).float(), pixels, self._network.normalise, progress=watch
        )
