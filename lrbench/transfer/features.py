"""Features of a target under a snapshot: extracted once, and kept for the next cells of the same target."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from torch import nn

from lrbench.config.suite import Input
from lrbench.core.control import Control
from lrbench.core.errors import InputError, InterruptedWork
from lrbench.core.workspace import Workspace
from lrbench.data.examples import Identity
from lrbench.data.pixels import Pixels
from lrbench.models.devices import pick_device, to_device
from lrbench.models.folding import fold_batchnorm
from lrbench.models.inference import InputNormalisation, forward_all
from lrbench.models.loading import LoadedSnapshot, load_snapshot
from lrbench.models.networks import penultimate, stages
from lrbench.store.references import Reference, resolve_partner
from lrbench.transfer.diagnostics import describe_features
from lrbench.transfer.target import JoinedPixels, Target

FeatureKind = Literal["penultimate", "stages", "partner"]
Read = Callable[[nn.Module, torch.Tensor], Sequence[torch.Tensor] | torch.Tensor]
"""Function that returns the features of a batch, or several tensors of features that are concatenated: `penultimate` or
`stages` of `lrbench.models.networks`."""


@dataclass(frozen=True, kw_only=True)
class Network:
    """A loaded snapshot on its device.

    Attributes:
        reference: The reference that was loaded.
        snapshot: The snapshot.
        model: Its network in evaluation mode, on the device.
        normalise: Function that turns images into inputs of the network.
        device: The device.
    """

    reference: Reference
    snapshot: LoadedSnapshot
    model: nn.Module
    normalise: InputNormalisation
    device: torch.device

    @classmethod
    def load(cls, reference: Reference) -> "Network":
        """Load a snapshot onto the device on which this process computes."""
        device, snapshot = pick_device(), load_snapshot(reference)
        settings = snapshot.metadata.input
        return cls(
            reference=reference,
            snapshot=snapshot,
            model=to_device(snapshot.model, device),
            normalise=InputNormalisation(settings.mean, settings.std, device),
            device=device,
        )

    @cached_property
    def inference(self) -> nn.Module:
        """The network as it is evaluated: with BatchNorm layers folded into convolutions (`fold_batchnorm`)."""
        return fold_batchnorm(self.model)

    @property
    def input(self) -> Input:
        """Size and preprocessing of the network's input."""
        return self.snapshot.metadata.input


@dataclass(frozen=True, kw_only=True)
class Features:
    """Features of a target under one snapshot, or under two concatenated.

    Attributes:
        development: Features of the training and validation images. Shape `(N, D)`, float32.
        test: Features of the test images. Shape `(M, D)`, float32.
        widths: Number of features of each concatenated part; the sum is D.
    """

    development: torch.Tensor
    test: torch.Tensor
    widths: tuple[int, ...]

    def to(self, device: torch.device) -> "Features":
        """Return the features on a device."""
        return Features(development=self.development.to(device), test=self.test.to(device), widths=self.widths)

    def concatenate(self, other: "Features") -> "Features":
        """Return these features followed by other features of the same images."""
        return Features(
            development=torch.cat([self.development, other.development], dim=1),
            test=torch.cat([self.test, other.test], dim=1),
            widths=(*self.widths, *other.widths),
        )

    def are_finite(self) -> bool:
        """Return whether all features are finite."""
        return bool(torch.isfinite(self.development).all() & torch.isfinite(self.test).all())


@dataclass(frozen=True, kw_only=True)
class ExtractedFeatures:
    """Features with their description.

    Attributes:
        features: The features.
        seconds: Duration of the extraction.
        diagnostics: Description of the features (`describe_features`).
        diagnostics_seconds: Duration of the description.
    """

    features: Features
    seconds: float
    diagnostics: dict[str, float]
    diagnostics_seconds: float


class FeatureCache:
    """Features of one snapshot. Those of the latest target are kept, because the next cell usually has the same target.

    Args:
        network: The snapshot.
        partner: Value of `concat.partner`.
        workspace: Workspace in which the partner is searched.
        control: Receives progress.
    """

    def __init__(self, network: Network, partner: str, workspace: Workspace, control: Control) -> None:
        self._network = network
        self._partner_name = partner
        self._workspace = workspace
        self._control = control
        # Snapshot, BatchNorm statistics and transform are fixed, so that the target is the whole key.
        self._target: Identity | None = None
        self._extracted: dict[FeatureKind, ExtractedFeatures] = {}
        self._partner: LoadedSnapshot | None = None

    def get(self, target: Target, kind: FeatureKind) -> ExtractedFeatures:
        """Return features of a target, which are extracted unless they are kept.

        Raises:
            InputError: The features are not finite, or the partner is missing or takes different inputs.
            InterruptedWork: A stop was requested.
        """
        if self._target != target.identity:
            self._target, self._extracted = target.identity, {}
        if kind not in self._extracted:
            started = time.perf_counter()
            features = self._extract(target, kind)
            if not features.are_finite():
                raise InputError(
                    f"the features that {self._network.reference.text} gives of {target.data.task.name} are not finite, so "
                    "nothing can be learned from them. Its weights may be damaged: check them with `lrbench snapshots verify`."
                )
            extracted = time.perf_counter()
            # The last stage's features are the network's own; concatenated ones are described together.
            width = features.widths[-1] if kind == "stages" else sum(features.widths)
            diagnostics = describe_development(features.development[:, -width:], target, self._network.device)
            self._extracted[kind] = ExtractedFeatures(
                features=features,
                seconds=extracted - started,
                diagnostics=diagnostics,
                diagnostics_seconds=time.perf_counter() - extracted,
            )
        return self._extracted[kind]

    def check_partner(self) -> None:
        """Load the partner unless its features are kept, so that a missing one is reported before images are read.

        Raises:
            InputError: The partner is missing or takes different inputs.
        """
        if "partner" not in self._extracted and self._partner is None:
            self._partner = self._load_partner()

    def _extract(self, target: Target, kind: FeatureKind) -> Features:
        network = self._network
        if kind == "partner":
            features = self.get(target, "penultimate").features
            self.check_partner()
            assert self._partner is not None
            partner = fold_batchnorm(to_device(self._partner.model, network.device))
            other = extract(partner, target, network.normalise, self._control, penultimate)
            # The next cell may need the memory.
            self._partner = None
            return features.concatenate(other.to(network.device))
        # Outputs of stages are intermediate features.
        model, read = (network.model, stages) if kind == "stages" else (network.inference, penultimate)
        return extract(model, target, network.normalise, self._control, read).to(network.device)

    def _load_partner(self) -> LoadedSnapshot:
        reference = resolve_partner(self._network.reference, self._partner_name, self._workspace)
        partner = load_snapshot(reference)
        if partner.metadata.input != self._network.input:
            raise InputError(
                f"{reference.text} and {self._network.reference.text} take different inputs (size, crop, interpolation or "
                "normalisation), so concat cannot read both from the same images. Set concat.partner to a snapshot with the "
                "same input."
            )
        return partner


def describe_development(features: torch.Tensor, target: Target, device: torch.device) -> dict[str, float]:
    """Describe the features of training and validation images (`describe_features`).

    Args:
        features: Shape `(N, D)`.
        target: The target, which has the labels.
        device: Device of the computation.
    """
    labels = torch.from_numpy(target.development.labels)
    return describe_features(features.to(device), labels, len(target.data.classes))


def extract(
    model: nn.Module,
    target: Target,
    normalise: InputNormalisation,
    control: Control,
    read: Read,
) -> Features:
    """Extract features of every image once, without augmentation.

    Args:
        model: The network in evaluation mode, on the device of `normalise`.
        target: The prepared task.
        normalise: Function that turns images into inputs.
        control: Receives progress.
        read: Function that returns the features of a batch.

    Raises:
        InterruptedWork: A stop was requested.
    """
    total = len(target.development.pixels) + len(target.test)
    widths: tuple[int, ...] = ()

    def forward(images: torch.Tensor) -> torch.Tensor:
        nonlocal widths
        outputs = read(model, images)
        parts = [outputs] if isinstance(outputs, torch.Tensor) else list(outputs)
        widths = tuple(part.shape[1] for part in parts)
        return torch.cat(parts, dim=1).float()

    def extract_split(pixels: JoinedPixels | Pixels, start: int) -> torch.Tensor:
        def watch(count: int) -> None:
            control.progress(start + count, total, "images")
            if control.stop_requested():
                raise InterruptedWork(
                    f"stopped while extracting features of {target.data.task.name}. Finished cells are saved. Run the same "
                    "command again to continue."
                )

        return forward_all(forward, pixels, normalise, progress=watch)

    development = extract_split(target.development.pixels, 0)
    test = extract_split(target.test, len(target.development.pixels))
    return Features(development=development, test=test, widths=widths)
