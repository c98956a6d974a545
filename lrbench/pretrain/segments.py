"""Making one snapshot: load the parent, train, re-estimate, evaluate, write; or find it made already."""

import time
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lrbench.arms import Segment, SnapshotKey, kept_epochs, segment
from lrbench.control import Control
from lrbench.data.batches import Batches
from lrbench.effective import is_made, recipe
from lrbench.errors import InputError
from lrbench.locks import locked
from lrbench.machine import device_name, library_versions, source_revision
from lrbench.models import InputNormalisation, create_model, pick_device
from lrbench.pretrain.batchnorm import reestimate
from lrbench.pretrain.log import append_timing, write_log
from lrbench.pretrain.source import Source, SourceScores, evaluate, open_source
from lrbench.pretrain.state import load, progress_path, save, state_path
from lrbench.pretrain.trainer import Progress, Trainer
from lrbench.registry import Suite
from lrbench.seeds import derive
from lrbench.snapshots import SnapshotMetadata, read_metadata, snapshot_path, write_snapshot
from lrbench.weights import load_strictly, load_tensors
from lrbench.workspace import Place

# Arms whose epoch-end weights `average` takes the mean of.
_KEEPS_MEAN = ("hold",)


def make_snapshot(suite: Suite, key: SnapshotKey, place: Place, control: Control) -> SnapshotMetadata:
    """Make one snapshot from its parent, or find it made already.

    Args:
        suite: The suite.
        key: Which snapshot; its parent must be made.
        place: Where to read and write.
        control: Told how far the work is, and asked whether to stop.

    Returns:
        The snapshot's metadata.

    Raises:
        InputError: The source's data is not whole, or what lies in the snapshots' folder does not fit the suite.
        FailureError: The loss is not finite, or the disk is full.
        InterruptedWork: Asked to stop; the progress was saved.
    """
    path = snapshot_path(place.workspace.checkpoints, suite.name, key)
    with locked(path, control):
        if is_made(suite, key, place.workspace):
            return read_metadata(path)
        return _Making(suite, segment(suite.schedule, key), place, path, control).run()


class _Making:
    """One snapshot in the making: what its steps share."""

    def __init__(self, suite: Suite, stretch: Segment, place: Place, path: Path, control: Control) -> None:
        self.suite, self.segment, self.place, self.path, self.control = suite, stretch, place, path, control
        self.device = pick_device()
        self.normalise = InputNormalisation(suite.input.mean, suite.input.std, self.device)
        self.source: Source = open_source(
            suite.source, suite.input, place.roots, place.partial, place.pixel_cache, control
        )
        self.batches = Batches(
            pixels=self.source.train,
            labels=self.source.data.splits["train"].labels,
            seed=stretch.key.seed,
            batch=suite.schedule.batch,
            size=suite.input.size,
            augmentation=suite.schedule.augmentation,
        )

    def run(self) -> SnapshotMetadata:
        seed = self.segment.key.seed
        model = create_model(
            self.suite.model.architecture,
            self.suite.model.arguments,
            classes=len(self.source.data.classes),
            seed=derive(seed, "initialisation"),
        )
        if self.segment.parent is None:
            # Copies: the statistics estimated below are put into the same network, and must not reach these.
            end = Progress(update=0, weights={name: value.clone() for name, value in model.state_dict().items()})
        elif self.segment.averaged:
            end = self._mean_of(self.segment.parent, model)
        elif self.segment.kept_epoch is not None:
            end = self._kept_by(self.segment.parent, self.segment.kept_epoch, model)
        else:
            end = self._train(model)
        model.load_state_dict(end.weights)
        model.to(self.device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
        raw = evaluate(model, self.source, self.normalise, self.control)
        statistics, sample = reestimate(
            model, self.source.train, self.normalise, images=self.suite.batchnorm.images, seed=seed
        )
        scores = raw
        if statistics:
            model.load_state_dict(statistics, strict=False)
            scores = evaluate(model, self.source, self.normalise, self.control)
        metadata = self._metadata(end.update, scores, raw)
        if not self.segment.derived:
            mean = {name: tensor / end.mean_count for name, tensor in end.mean.items()}
            save(
                state_path(self.path),
                {"update": end.update, "momentum": end.momentum, "mean": mean, "kept": end.kept},
            )
            write_log(self.path, self.segment.key.stage, end.records)
        write_snapshot(self.path, end.weights, metadata, statistics, sample)
        progress_path(self.path).unlink(missing_ok=True)
        return metadata

    def _train(self, model: nn.Module) -> Progress:
        started = time.perf_counter()
        progress = self._resumed() or self._from_parent(model)
        trainer = Trainer(
            model,
            self.segment,
            self.suite.schedule,
            self.batches,
            self.normalise,
            progress,
            keep_mean=self.segment.key.arm in _KEEPS_MEAN,
            keep_epochs=kept_epochs(self.suite, self.segment),
            device=self.device,
        )
        first = progress.update
        end = trainer.train(self.control, self._save)
        seconds = time.perf_counter() - started
        images = (end.update - first) * self.suite.schedule.batch
        append_timing(
            self.path,
            {
                "stage": self.segment.key.stage,
                "updates": end.update - first,
                "seconds": round(seconds, 3),
                "images_per_second": round(images / seconds, 1),
                "device": device_name(self.device),
            },
        )
        return end

    def _save(self, progress: Progress) -> None:
        content = {each.name: getattr(progress, each.name) for each in fields(progress)}
        save(
            progress_path(self.path), {"recipe": recipe(self.suite), "fingerprint": self.source.fingerprint, **content}
        )
        write_log(self.path, self.segment.key.stage, progress.records)

    def _resumed(self) -> Progress | None:
        path = progress_path(self.path)
        if not path.is_file():
            return None
        try:
            content = load(path)
        except InputError:
            # Half-saved progress is no loss but time: the segment starts from its parent again.
            self.control.say(f"{path} is damaged; {self.segment.key} starts from its last boundary again")
            return None
        if content["recipe"] != recipe(self.suite) or content["fingerprint"] != self.source.fingerprint:
            return None
        return Progress(**{each.name: content[each.name] for each in fields(Progress)})

    def _from_parent(self, model: nn.Module) -> Progress:
        weights, state = self._parent(model)
        return Progress(update=int(state["update"]), weights=weights, momentum=state["momentum"])

    def _mean_of(self, parent: SnapshotKey, model: nn.Module) -> Progress:
        weights, state = self._parent(model)
        mean = {name: tensor.to(weights[name].dtype) for name, tensor in state["mean"].items()}
        if not mean:
            raise InputError(
                f"{state_path(self._path_of(parent))} holds no mean of epoch-end weights, which {self.segment.key} needs. "
                f"Delete {self._path_of(parent)} and pretrain again."
            )
        return Progress(update=int(state["update"]), weights={**weights, **mean})

    def _kept_by(self, parent: SnapshotKey, epoch: int, model: nn.Module) -> Progress:
        _, state = self._parent(model)
        kept = state.get("kept", {}).get(epoch)
        if kept is None:
            raise InputError(
                f"{state_path(self._path_of(parent))} holds no weights of epoch {epoch}, which {self.segment.key} needs: it "
                f"was pretrained when the suite had no arm `trail`. Delete {self._path_of(parent)} and pretrain again."
            )
        return Progress(update=epoch * self.batches.updates_per_epoch, weights=kept)

    def _parent(self, model: nn.Module) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        assert self.segment.parent is not None
        path = self._path_of(self.segment.parent)
        if not is_made(self.suite, self.segment.parent, self.place.workspace):
            raise InputError(
                f"{path} is missing, which {self.segment.key} starts from. Pretrain the suite's arm first."
            )
        metadata = read_metadata(path)
        if metadata.source_fingerprint != self.source.fingerprint:
            raise InputError(
                f"{path} was pretrained on other images or labels of {self.suite.source} than there are now. Give this "
                f"run a name of its own (--set name=NAME), or delete {path.parent.parent.parent} to start afresh."
            )
        tensors = load_tensors(path)
        load_strictly(model, tensors, path, self.suite.model.architecture)
        return tensors, load(state_path(path))

    def _path_of(self, key: SnapshotKey) -> Path:
        return snapshot_path(self.place.workspace.checkpoints, self.suite.name, key)

    def _metadata(self, update: int, scores: SourceScores, raw: SourceScores) -> SnapshotMetadata:
        suite, key = self.suite, self.segment.key
        return SnapshotMetadata(
            architecture=suite.model.architecture,
            arguments=suite.model.arguments,
            classes=len(self.source.data.classes),
            input=suite.input,
            suite=suite.name,
            arm=key.arm,
            stage=key.stage,
            seed=key.seed,
            epoch=self.segment.last_epoch,
            update=update,
            rate=self.segment.rate if key.stage else None,
            next_rate=self._next_rate(),
            recipe=recipe(suite),
            source_task=suite.source,
            source_fingerprint=self.source.fingerprint,
            source_partial=self.source.data.partial,
            source_accuracy=round(scores.accuracy, 8),
            source_accuracy_raw=round(raw.accuracy, 8),
            source_report={name: round(value, 8) for name, value in scores.report.items()},
            versions=library_versions(),
            revision=source_revision(),
        )

    def _next_rate(self) -> float | None:
        key = self.segment.key
        if key.arm == "trail" and key.stage:
            return self.segment.rate
        if key.arm == "average" or key.stage == self.suite.schedule.stages:
            return None
        if key.arm == "step":
            return self.suite.schedule.rates[key.stage]
        # `hold` ends at its boundary, but `constant` goes on from its second stage.
        return self.segment.rate if key.stage == 2 and "constant" in self.suite.arms else None
