"""Where the making of a snapshot begins: at its parent's end, at saved progress, or at what another's training kept."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lrbench.config import Suite
from lrbench.config.arms import ARMS
from lrbench.config.schedule import Segment, SnapshotKey, kept_epochs
from lrbench.core.errors import InputError
from lrbench.core.files import DamagedFile
from lrbench.core.workspace import Workspace
from lrbench.models.loading import load_into
from lrbench.models.tensors import mismatches
from lrbench.pretrain.state import Progress, advice, are_tensors, load, progress_of
from lrbench.store.lineage import missing_intermediate_weights, snapshot_exists
from lrbench.store.snapshots import SnapshotMetadata, progress_path, read_metadata, snapshot_path, state_path
from lrbench.store.suites import recipe


def keeps_mean(segment: Segment) -> bool:
    """Whether another arm may take the mean of this stage's epoch-end weights."""
    return ARMS[segment.key.arm].is_averaged


@dataclass(frozen=True, kw_only=True)
class Beginning:
    """Finds where a segment begins.

    Attributes:
        suite: The suite.
        segment: The segment.
        workspace: Where snapshots and progress lie.
        fingerprint: Of the source's images and labels as they are now.
        updates_per_epoch: Updates in an epoch.
        say: Told why saved progress is of no use.
    """

    suite: Suite
    segment: Segment
    workspace: Workspace
    fingerprint: str
    updates_per_epoch: int
    say: Callable[[str], None]

    def find(self, model: nn.Module) -> Progress:
        """Where the segment begins or goes on; for a derived one, where it ends.

        Args:
            model: The network, with its first weights; its names and shapes are those that saved ones must have.

        Raises:
            InputError: Its parent is missing, is of other images, or keeps not what the segment needs.
        """
        parent = self.segment.parent
        if parent is None:
            self._refuse_other_images()
            # Copies: the statistics estimated later are put into the same network, and must not reach these.
            return Progress(update=0, weights={name: value.clone() for name, value in model.state_dict().items()})
        if self.segment.averaged:
            return self._mean_of(parent, model)
        if self.segment.kept_epoch is not None:
            return self._kept_by(parent, self.segment.kept_epoch, model)
        return self._resumed(parent, model) or self._from_parent(parent, model)

    def _refuse_other_images(self) -> None:
        """A seed that begins now must see the images that the other seeds saw: it is compared with them."""
        for path in sorted(self._path_of(self.segment.key).parents[1].glob("seed*/stage0.safetensors")):
            self._same_images(path, read_metadata(path))

    def _same_images(self, path: Path, metadata: SnapshotMetadata) -> None:
        if metadata.source_fingerprint != self.fingerprint:
            raise InputError(
                f"{path} was pretrained on other images or labels of {self.suite.source} than there are now. Give this "
                f"run a name of its own (--set name=NAME), or delete {path.parent.parent.parent} to start afresh."
            )

    def _resumed(self, parent: SnapshotKey, model: nn.Module) -> Progress | None:
        """Saved progress, where it is of this very segment and holds all that the suite asks of it."""
        path = progress_path(self._path_of(self.segment.key))
        if not path.is_file():
            return None
        try:
            content = load(path)
            if content["recipe"] != recipe(self.suite) or content["fingerprint"] != self.fingerprint:
                return None
            first, last = (
                epoch * self.updates_per_epoch for epoch in (self.segment.first_epoch, self.segment.last_epoch)
            )
            progress = progress_of(content, first=first, last=last)
            damaged = not _fits(model, progress.weights, progress.momentum)
        except (InputError, ValueError, KeyError, TypeError, AttributeError):
            damaged = True
        now = read_metadata(self._path_of(parent)).tensors_sha256 if self._path_of(parent).is_file() else None
        if damaged:
            # Half-saved progress is no loss but time: the segment starts from its parent again.
            why = "is damaged"
        elif None not in (progress.parent_sha256, now) and progress.parent_sha256 != now:
            why = f"began at other weights than {parent} holds now"
        else:
            why = self._lacks(progress)
        if why:
            self.say(f"{path} {why}; {self.segment.key} starts from its last boundary again")
            return None
        return progress

    def _lacks(self, progress: Progress) -> str:
        """What an arm of the suite needs of the segment and saved progress does not hold, because the arm was added since."""
        epoch = progress.update // self.updates_per_epoch
        if keeps_mean(self.segment) and progress.mean_count != epoch - self.segment.first_epoch:
            return "holds no sum of the weights of all epochs so far, which an arm of the suite takes the mean of"
        for each, with_momentum in kept_epochs(self.suite, self.segment).items():
            if each <= epoch and (each not in progress.kept or (with_momentum and each not in progress.kept_momentum)):
                return f"holds no state of epoch {each}, which an arm of the suite needs"
        return ""

    def _from_parent(self, parent: SnapshotKey, model: nn.Module) -> Progress:
        weights, state, metadata = self._parent(parent, model)
        return Progress(
            update=int(state["update"]),
            weights=weights,
            momentum=state["momentum"],
            batchnorm_shared=metadata.batchnorm_shared,
            parent_sha256=metadata.tensors_sha256,
        )

    def _mean_of(self, parent: SnapshotKey, model: nn.Module) -> Progress:
        weights, state, metadata = self._parent(parent, model)
        path = state_path(self._path_of(parent))
        kept = state.get("mean", {})
        if not are_tensors(kept) or (kept and not _fits(model, kept, {})):
            raise DamagedFile(path, "its mean is not of this network's weights", advice(path))
        mean = {name: tensor.to(weights[name].dtype) for name, tensor in kept.items()}
        if not mean:
            raise InputError(
                f"{path} holds no mean of epoch-end weights, which {self.segment.key} needs: "
                f"it was pretrained by a version of lrbench that kept none. Delete {self._path_of(parent)} and pretrain again."
            )
        return Progress(
            update=int(state["update"]),
            weights={**weights, **mean},
            batchnorm_shared=metadata.batchnorm_shared,
            parent_sha256=metadata.tensors_sha256,
        )

    def _kept_by(self, parent: SnapshotKey, epoch: int, model: nn.Module) -> Progress:
        _, state, metadata = self._parent(parent, model)
        kept, arm = state.get("kept", {}).get(epoch), self.segment.key.arm
        momentum = state.get("kept_momentum", {}).get(epoch) if self.segment.branches else {}
        if kept is None or momentum is None:
            raise missing_intermediate_weights(self.suite, (arm,), (parent,), self.workspace)
        path = state_path(self._path_of(parent))
        if not _fits(model, kept, momentum):
            raise DamagedFile(path, f"what it holds of epoch {epoch} is not of this network", advice(path))
        return Progress(
            update=epoch * self.updates_per_epoch,
            weights=kept,
            momentum=momentum,
            batchnorm_shared=metadata.batchnorm_shared,
            parent_sha256=metadata.tensors_sha256,
        )

    def _parent(
        self, parent: SnapshotKey, model: nn.Module
    ) -> tuple[dict[str, torch.Tensor], dict[str, Any], SnapshotMetadata]:
        path = self._path_of(parent)
        if not snapshot_exists(self.suite, parent, self.workspace):
            raise InputError(
                f"{path} is missing, which {self.segment.key} starts from. Pretrain the suite's arm first."
            )
        metadata = read_metadata(path)
        self._same_images(path, metadata)
        tensors, state = load_into(model, path, metadata), load(state_path(path))
        parts = (state.get("kept", {}), state.get("kept_momentum", {}))
        if (
            type(state.get("update")) is not int
            or not all(isinstance(part, dict) for part in parts)
            or not _fits(model, tensors, state.get("momentum"))
        ):
            raise DamagedFile(state_path(path), "it is no state of this network", advice(state_path(path)))
        if state.get("tensors_sha256") not in (None, metadata.tensors_sha256):
            raise InputError(
                f"{state_path(path)} is the state of other weights than {path.name} beside it holds: one of them was put "
                f"there from another run. Put the state back that belongs to it, or else: {advice(state_path(path))}"
            )
        return tensors, state, metadata

    def _path_of(self, key: SnapshotKey) -> Path:
        return snapshot_path(self.workspace.checkpoints, self.suite.name, key)


def _fits(model: nn.Module, weights: Any, momentum: Any) -> bool:
    """Whether tensors are a network's weights and momentum buffers of its parameters."""
    if not are_tensors(weights) or not are_tensors(momentum):
        return False
    shapes = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    parameters = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    buffers = {name: tuple(tensor.shape) for name, tensor in momentum.items()}
    # A parameter that no loss depends on has no buffer.
    return not mismatches(model, shapes) and all(parameters.get(name) == shape for name, shape in buffers.items())
