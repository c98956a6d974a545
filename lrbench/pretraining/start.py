"""The state a segment starts from: its parent's end, saved progress, or weights that another arm's training kept."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lrbench.config import Suite
from lrbench.config.arms import ARMS
from lrbench.config.schedule import Segment, SnapshotKey, keeps_stage_end, kept_epochs, means_to_keep
from lrbench.core.errors import InputError
from lrbench.core.files import DamagedFile
from lrbench.core.workspace import Workspace
from lrbench.models.loading import load_into
from lrbench.models.tensors import mismatches
from lrbench.pretraining.stage_end import ended_at
from lrbench.pretraining.state import Progress, advice, are_tensors, load, progress_of
from lrbench.store.lineage import missing_intermediate_weights, snapshot_exists
from lrbench.store.snapshots import SnapshotMetadata, progress_path, read_metadata, snapshot_path, state_path
from lrbench.store.suites import recipe


@dataclass(frozen=True, kw_only=True)
class SegmentStart:
    """Loads the state a segment starts from.

    Attributes:
        suite: The suite.
        segment: The segment.
        workspace: Folders of snapshots and progress.
        fingerprint: Fingerprint of the source's current images and labels.
        updates_per_epoch: Updates in an epoch.
        say: Called with the reason when saved progress cannot be used.
    """

    suite: Suite
    segment: Segment
    workspace: Workspace
    fingerprint: str
    updates_per_epoch: int
    say: Callable[[str], None]

    def load(self, model: nn.Module) -> Progress:
        """Return the state to train from; for a derived segment, its final state.

        Args:
            model: The freshly initialised network; saved tensors must have its names and shapes.

        Raises:
            InputError: The parent is missing, was trained on different images, or lacks what the segment needs.
        """
        parent = self.segment.parent
        if parent is None:
            self._refuse_other_images()
            # Copies: re-estimated statistics are loaded into the same network later.
            return Progress(update=0, weights={name: value.clone() for name, value in model.state_dict().items()})
        if self.segment.averaged:
            return self._mean_of(parent, model)
        if self.segment.kept_epoch is not None:
            return self._kept_by(parent, self.segment.kept_epoch, model)
        if self.segment.paced_by is not None and self.segment.paced_epochs is None:
            raise self._missing_snapshot(self.segment.paced_by)
        return self._resumed(parent, model) or self._from_parent(parent, model)

    def _refuse_other_images(self) -> None:
        """Refuse a new seed whose images differ from those of existing seeds, unless each seed has its own."""
        if self.suite.books:
            return
        for path in sorted(self._path_of(self.segment.key).parents[1].glob("seed*/stage0.safetensors")):
            self._same_images(path, read_metadata(path))

    def _same_images(self, path: Path, metadata: SnapshotMetadata) -> None:
        if metadata.source_fingerprint != self.fingerprint:
            raise InputError(
                f"{path} was pretrained on images or labels of {self.suite.source} that differ from the current ones. Use "
                f"another suite name (--set name=NAME), or delete {path.parent.parent.parent} to start again."
            )

    def _resumed(self, parent: SnapshotKey, model: nn.Module) -> Progress | None:
        """Return saved progress of this segment; None if there is none that the suite can continue from."""
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
            # Only time is lost: the segment starts from its parent again.
            problem = "is damaged"
        elif None not in (progress.parent_sha256, now) and progress.parent_sha256 != now:
            problem = f"started from weights that {parent} no longer has"
        else:
            problem = self._missing(progress)
        if problem:
            self.say(f"{path} {problem}. {self.segment.key} starts again from its last boundary.")
            return None
        return progress

    def _missing(self, progress: Progress) -> str:
        """Return a clause naming what saved progress lacks for an arm that was added since; empty if nothing."""
        epoch = progress.update // self.updates_per_epoch
        means = means_to_keep(self.suite, self.segment)
        if "epochs" in means and progress.mean_count != epoch - self.segment.first_epoch:
            return "lacks the sum of epoch-end weights, which an arm of the suite needs"
        tail = progress.update - (self.segment.last_epoch - 1) * self.updates_per_epoch
        if "tail" in means and progress.tail_count != max(0, tail):
            return "lacks the sum of the last epoch's weights, which an arm of the suite needs"
        if (
            "moving" in means
            and progress.moving_count != progress.update - self.segment.first_epoch * self.updates_per_epoch
        ):
            return "lacks the moving average of weights, which an arm of the suite needs"
        for kept, with_momentum in kept_epochs(self.suite, self.segment).items():
            if kept <= epoch and (kept not in progress.kept or (with_momentum and kept not in progress.kept_momentum)):
                return f"lacks the state of epoch {kept}, which an arm of the suite needs"
        end = ended_at(progress.records, self.suite.schedule) if keeps_stage_end(self.suite, self.segment) else None
        if end is not None and end not in progress.kept_momentum:
            return f"lacks the state of epoch {end}, which an arm of the suite needs"
        return ""

    def _from_parent(self, parent: SnapshotKey, model: nn.Module) -> Progress:
        weights, state, metadata = self._parent(parent, model)
        return Progress(
            # The parent's last update, unless the batch grows.
            update=self.segment.first_epoch * self.updates_per_epoch,
            weights=weights,
            momentum=state["momentum"],
            batchnorm_shared=metadata.batchnorm_shared,
            parent_sha256=metadata.tensors_sha256,
        )

    def _mean_of(self, parent: SnapshotKey, model: nn.Module) -> Progress:
        weights, state, metadata = self._parent(parent, model)
        path, arm = state_path(self._path_of(parent)), self.segment.key.arm
        kept = state.get({"epochs": "mean", "tail": "tail_mean", "moving": "moving_mean"}[ARMS[arm].mean_over], {})
        if not are_tensors(kept) or (kept and not _fits(model, kept, {})):
            raise DamagedFile(path, "its mean does not fit this network", advice(path))
        if not kept:
            raise missing_intermediate_weights(self.suite, (arm,), (parent,), self.workspace)
        mean = {name: tensor.to(weights[name].dtype) for name, tensor in kept.items()}
        return Progress(
            update=int(state["update"]),
            weights={**weights, **mean},
            batchnorm_shared=metadata.batchnorm_shared,
            parent_sha256=metadata.tensors_sha256,
        )

    def _kept_by(self, parent: SnapshotKey, epoch: int, model: nn.Module) -> Progress:
        tensors, state, metadata = self._parent(parent, model)
        arm = self.segment.key.arm
        if self.segment.adaptive:
            if metadata.stage_end is None:
                raise missing_intermediate_weights(self.suite, (arm,), (parent,), self.workspace)
            epoch = int(metadata.stage_end["epoch"])
        if self.segment.adaptive and epoch == metadata.epoch:
            kept, momentum = tensors, state["momentum"]
        else:
            kept = state.get("kept", {}).get(epoch)
            momentum = state.get("kept_momentum", {}).get(epoch) if self.segment.branches else {}
        if kept is None or momentum is None:
            raise missing_intermediate_weights(self.suite, (arm,), (parent,), self.workspace)
        path = state_path(self._path_of(parent))
        if not _fits(model, kept, momentum):
            raise DamagedFile(path, f"its state of epoch {epoch} does not fit this network", advice(path))
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
            raise self._missing_snapshot(parent)
        metadata = read_metadata(path)
        self._same_images(path, metadata)
        tensors, state = load_into(model, path, metadata), load(state_path(path))
        parts = (state.get("kept", {}), state.get("kept_momentum", {}))
        if (
            type(state.get("update")) is not int
            or not all(isinstance(part, dict) for part in parts)
            or not _fits(model, tensors, state.get("momentum"))
        ):
            raise DamagedFile(state_path(path), "it does not fit this network", advice(state_path(path)))
        if state.get("tensors_sha256") not in (None, metadata.tensors_sha256):
            raise InputError(
                f"{state_path(path)} belongs to different weights than {path.name} next to it: one of the two is from "
                f"another run. Restore the matching state, or start that stage again. {advice(state_path(path))}"
            )
        return tensors, state, metadata

    def _missing_snapshot(self, needed: SnapshotKey) -> InputError:
        return InputError(
            f"{self.segment.key} starts from {self._path_of(needed)}, which is missing. Pretrain the suite's arm first."
        )

    def _path_of(self, key: SnapshotKey) -> Path:
        return snapshot_path(self.workspace.checkpoints, self.suite.name, key)


def _fits(model: nn.Module, weights: Any, momentum: Any) -> bool:
    """Return whether tensors have the names and shapes of a network's weights and momentum buffers."""
    if not are_tensors(weights) or not are_tensors(momentum):
        return False
    shapes = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    parameters = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    buffers = {name: tuple(tensor.shape) for name, tensor in momentum.items()}
    # A parameter that no loss depends on has no buffer.
    return not mismatches(model, shapes) and all(parameters.get(name) == shape for name, shape in buffers.items())
