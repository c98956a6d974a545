"""Where the making of a snapshot begins: at its parent's end, at saved progress, or at what another's training kept."""

from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lrbench.arms import MEAN_OF, Segment, SnapshotKey
from lrbench.effective import is_made, recipe
from lrbench.errors import InputError
from lrbench.pretrain.state import Progress, load, progress_path, state_path
from lrbench.registry import Suite
from lrbench.snapshots import read_metadata, snapshot_path
from lrbench.weights import load_into
from lrbench.workspace import Workspace


def keeps_mean(segment: Segment) -> bool:
    """Whether another arm may take the mean of this stage's epoch-end weights."""
    return segment.key.arm in MEAN_OF.values()


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
            # Copies: the statistics estimated later are put into the same network, and must not reach these.
            return Progress(update=0, weights={name: value.clone() for name, value in model.state_dict().items()})
        if self.segment.averaged:
            return self._mean_of(parent, model)
        if self.segment.kept_epoch is not None:
            return self._kept_by(parent, self.segment.kept_epoch, model)
        return self._resumed() or self._from_parent(parent, model)

    def _resumed(self) -> Progress | None:
        path = progress_path(self._path_of(self.segment.key))
        if not path.is_file():
            return None
        try:
            content = load(path)
        except InputError:
            # Half-saved progress is no loss but time: the segment starts from its parent again.
            self.say(f"{path} is damaged; {self.segment.key} starts from its last boundary again")
            return None
        if content["recipe"] != recipe(self.suite) or content["fingerprint"] != self.fingerprint:
            return None
        progress = Progress(**{each.name: content[each.name] for each in fields(Progress)})
        epochs = progress.update // self.updates_per_epoch - self.segment.first_epoch
        if keeps_mean(self.segment) and progress.mean_count != epochs:
            self.say(
                f"{path} holds no sum of the weights of all epochs so far, which an arm of the suite takes the mean of; "
                f"{self.segment.key} starts from its last boundary again"
            )
            return None
        return progress

    def _from_parent(self, parent: SnapshotKey, model: nn.Module) -> Progress:
        weights, state, shared = self._parent(parent, model)
        return Progress(
            update=int(state["update"]), weights=weights, momentum=state["momentum"], batchnorm_shared=shared
        )

    def _mean_of(self, parent: SnapshotKey, model: nn.Module) -> Progress:
        weights, state, shared = self._parent(parent, model)
        mean = {name: tensor.to(weights[name].dtype) for name, tensor in state["mean"].items()}
        if not mean:
            raise InputError(
                f"{state_path(self._path_of(parent))} holds no mean of epoch-end weights, which {self.segment.key} needs: "
                f"it was pretrained by a version of lrbench that kept none. Delete {self._path_of(parent)} and pretrain again."
            )
        return Progress(update=int(state["update"]), weights={**weights, **mean}, batchnorm_shared=shared)

    def _kept_by(self, parent: SnapshotKey, epoch: int, model: nn.Module) -> Progress:
        _, state, shared = self._parent(parent, model)
        kept, arm = state.get("kept", {}).get(epoch), self.segment.key.arm
        momentum = {} if arm == "trail" else state.get("kept_momentum", {}).get(epoch)
        if kept is None or momentum is None:
            raise InputError(
                f"{state_path(self._path_of(parent))} holds no state of epoch {epoch}, which {self.segment.key} needs: it was "
                f"pretrained when the suite had no arm `{arm}`. Delete {self._path_of(parent)} and pretrain again."
            )
        update = epoch * self.updates_per_epoch
        return Progress(update=update, weights=kept, momentum=momentum, batchnorm_shared=shared)

    def _parent(
        self, parent: SnapshotKey, model: nn.Module
    ) -> tuple[dict[str, torch.Tensor], dict[str, Any], int | None]:
        path = self._path_of(parent)
        if not is_made(self.suite, parent, self.workspace):
            raise InputError(
                f"{path} is missing, which {self.segment.key} starts from. Pretrain the suite's arm first."
            )
        metadata = read_metadata(path)
        if metadata.source_fingerprint != self.fingerprint:
            raise InputError(
                f"{path} was pretrained on other images or labels of {self.suite.source} than there are now. Give this "
                f"run a name of its own (--set name=NAME), or delete {path.parent.parent.parent} to start afresh."
            )
        tensors = load_into(model, path, metadata)
        return tensors, load(state_path(path)), metadata.batchnorm_shared

    def _path_of(self, key: SnapshotKey) -> Path:
        return snapshot_path(self.workspace.checkpoints, self.suite.name, key)
