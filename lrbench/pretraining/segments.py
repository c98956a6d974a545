"""One snapshot: load its parent, train, re-estimate BatchNorm statistics, evaluate, write."""

import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lrbench.config import Suite
from lrbench.config.schedule import Segment, SnapshotKey, keeps_stage_end, kept_epochs, means_to_keep
from lrbench.core.control import Control
from lrbench.core.distributed import SINGLE_PROCESS, ProcessGroup
from lrbench.core.errors import FailureError, InputError, InterruptedWork, OutOfMemory
from lrbench.core.files import remove_file
from lrbench.core.locks import locked
from lrbench.core.machine import device_name
from lrbench.core.seeds import derive
from lrbench.core.workspace import Place, Workspace
from lrbench.data.batches import Batches
from lrbench.models.devices import computing_threads, is_out_of_memory, pick_device, to_device
from lrbench.models.inference import InputNormalisation
from lrbench.models.limits import refuse_misfit
from lrbench.models.networks import create_model
from lrbench.pretraining.batchnorm import images_per_statistics, reestimate
from lrbench.pretraining.epoch_statistics import EpochStatistics
from lrbench.pretraining.log import append_timing, clear_log, write_log
from lrbench.pretraining.loop import Trainer
from lrbench.pretraining.metadata import snapshot_metadata
from lrbench.pretraining.saver import Saver, on_cpu
from lrbench.pretraining.setup import arithmetic
from lrbench.pretraining.source import Evaluator, Source, open_source
from lrbench.pretraining.stage_end import stage_end
from lrbench.pretraining.start import SegmentStart
from lrbench.pretraining.state import Progress, save
from lrbench.pretraining.tracking import Tracker, Trackers
from lrbench.pretraining.update_statistics import ends_by_rule
from lrbench.store.lineage import resolve_segment, snapshot_exists
from lrbench.store.snapshots import (
    SnapshotMetadata,
    hash_tensors,
    progress_path,
    read_metadata,
    snapshot_path,
    state_path,
    write_snapshot,
)
from lrbench.store.suites import recipe

# The number of classes does not matter for whether a network takes the images.
_ANY_CLASSES = 10
# Images of a full batch in one forward and backward pass.
_PIECE = 256


def make_snapshot(
    suite: Suite, key: SnapshotKey, place: Place, control: Control, ranks: ProcessGroup = SINGLE_PROCESS
) -> SnapshotMetadata:
    """Make one snapshot from its parent, unless it exists.

    Args:
        suite: The suite.
        key: The snapshot; its parent must exist.
        place: Folders to read and write.
        control: Receives progress; asked whether to stop.
        ranks: The processes that train together; the first one reads and writes.

    Returns:
        The snapshot's metadata.

    Raises:
        InputError: The source's data is incomplete, or existing files do not fit the suite.
        FailureError: The loss is not finite, memory ran out, or the disk is full.
        InterruptedWork: Asked to stop; the progress was saved.
    """
    path = snapshot_path(place.workspace.checkpoints, suite.name, key)
    with ExitStack() as locks:
        exclusive = ranks.run_on_main(lambda: locks.enter_context(locked(path, control)))
        ranks.run_on_main(lambda: _remove_partial_files(path, control, exclusive=exclusive))
        existing = ranks.run_on_main(lambda: _existing(suite, key, place.workspace))
        if existing is not None:
            return existing
        segment = ranks.run_on_main(lambda: resolve_segment(suite, key, place.workspace))
        return _SegmentRun(suite, segment, place, path, control, ranks, exclusive=exclusive).run()


def _remove_partial_files(path: Path, control: Control, *, exclusive: bool) -> None:
    """Remove files that a killed process left half-written; no other process writes them while the lock is held."""
    stem = path.name.removesuffix(".safetensors")
    for partial_file in path.parent.glob(f".{stem}.*.part") if exclusive else ():
        partial_file.unlink(missing_ok=True)
    clear_log(path, control)


def _existing(suite: Suite, key: SnapshotKey, workspace: Workspace) -> SnapshotMetadata | None:
    if not snapshot_exists(suite, key, workspace):
        return None
    path = snapshot_path(workspace.checkpoints, suite.name, key)
    # Left by a process killed after writing the snapshot. It must not revive a snapshot that is deleted later.
    remove_file(progress_path(path))
    return read_metadata(path)


class _SegmentRun:
    """The making of one snapshot, and the state that its steps share."""

    def __init__(
        self,
        suite: Suite,
        trained: Segment,
        place: Place,
        path: Path,
        control: Control,
        ranks: ProcessGroup,
        *,
        exclusive: bool,
    ) -> None:
        self.suite, self.segment, self.place, self.path, self.control = suite, trained, place, path, control
        self.ranks, self.exclusive = ranks, exclusive
        # The update up to which this segment's progress is on the disk.
        self.saved: int | None = None
        self.device = pick_device()
        self.normalise = InputNormalisation(suite.input.mean, suite.input.std, self.device)
        # Before the source is prepared, which may take hours.
        refuse_misfit(suite.model.architecture, suite.model.arguments, classes=_ANY_CLASSES, size=suite.input.size)
        self.source: Source = open_source(
            suite.source_of(trained.key.seed), suite.input, place.roots, place.partial, place.pixel_cache, control
        )
        try:
            self.batches = Batches(
                pixels=self.source.train,
                labels=self.source.data.splits["train"].labels,
                seed=trained.key.seed,
                batch=suite.schedule.batch_of(len(self.source.train)) * trained.growth,
                size=suite.input.size,
                augmentation=suite.schedule.augmentation,
                rank=ranks.rank,
                world=ranks.world_size,
            )
        except InputError as error:
            # All processes raise it.
            raise ranks.mark_shared(error) from error

    def run(self) -> SnapshotMetadata:
        """Make the snapshot.

        Raises:
            OutOfMemory: Memory ran out.
            FailureError: Weights are not finite.
        """
        try:
            with (
                computing_threads(self.device, self.suite.training.threads),
                arithmetic(self.device, deterministic=self.suite.training.deterministic),
            ):
                return self._run()
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            raise OutOfMemory(
                f"Out of memory on the {self.device.type} while making {self.segment.key}: {str(error).splitlines()[0]} "
                "Free memory, or use a smaller network, input or batch under a new suite name (--set name=NAME). Then run "
                "the same command again."
            ) from error

    def _run(self) -> SnapshotMetadata:
        suite, key, ranks = self.suite, self.segment.key, self.ranks
        model = create_model(
            suite.model.architecture,
            suite.model.arguments,
            classes=len(self.source.data.classes),
            seed=derive(key.seed, "initialisation"),
        )
        start = SegmentStart(
            suite=suite,
            segment=self.segment,
            workspace=self.place.workspace,
            fingerprint=self.source.fingerprint,
            updates_per_epoch=self.batches.updates_per_epoch,
            say=self.control.say,
        )
        progress = ranks.run_on_main(lambda: start.load(model))
        shared = ranks.run_on_main(
            lambda: images_per_statistics(
                suite, self.segment, progress, model, ranks, self.control.say, batch=self.batches.batch
            )
        )
        end = replace(progress, batchnorm_shared=shared)
        to_device(model, self.device)
        if self.segment.parent is not None and not self.segment.derived:
            if end.update > self.segment.first_epoch * self.batches.updates_per_epoch:
                self.saved = end.update
            end = self._train(model, end)
            # All processes have the same weights, but each has BatchNorm running statistics of its own images.
            end = replace(end, weights=ranks.run_on_main(lambda: end.weights))
        if (broken := end.not_finite()) is not None:
            raise ranks.mark_shared(self._not_finite(end, broken))
        model.load_state_dict(end.weights)
        model.eval()
        evaluator = Evaluator(model, self.source, self.normalise, self.control, ranks)
        statistics, sample = ranks.run_on_main(
            lambda: reestimate(model, self.source.train, self.normalise, images=suite.batchnorm.images, seed=key.seed)
        )
        raw = evaluator.accuracy() if statistics else None
        model.load_state_dict(statistics, strict=False)
        scores = evaluator.scores()
        metadata = snapshot_metadata(
            suite,
            self.segment,
            end,
            self.source,
            scores,
            scores.accuracy if raw is None else raw,
            device=self.device,
            updates_per_epoch=self.batches.updates_per_epoch,
            stage_end=ranks.run_on_main(lambda: self._stage_end(end)),
            stage_rules=ranks.run_on_main(lambda: self._stage_rules(end)),
        )
        return ranks.run_on_main(lambda: self._write(end, metadata, statistics, sample))

    def _stage_end(self, end: Progress) -> dict[str, float] | None:
        """Return the decision of the rule of adaptive arms on this segment, or None if no arm asks for it."""
        segment = self.segment
        if (parent := self._trained_as) is not None:
            return parent.stage_end
        asked = not segment.derived and (segment.adaptive or keeps_stage_end(self.suite, segment))
        return stage_end(end.records, self.suite.schedule) if asked else None

    def _stage_rules(self, end: Progress) -> dict[str, int | None] | None:
        """Return where each rule would have ended this segment.

        None if the suite does not ask for it, or if the rate falls within the segment: the rules are for a constant rate.
        """
        segment = self.segment
        if (parent := self._trained_as) is not None:
            return parent.stage_rules
        if not self.suite.training.update_statistics or segment.derived or segment.cosine or not end.records:
            return None
        return ends_by_rule(
            end.records,
            self.suite.schedule,
            updates_per_epoch=self.batches.updates_per_epoch,
            first=segment.key.stage == 1,
        )

    @property
    def _trained_as(self) -> SnapshotMetadata | None:
        """The metadata of the parent in whose training an adaptive stage is included; None for other segments."""
        segment = self.segment
        if not (segment.derived and segment.adaptive) or segment.parent is None:
            return None
        return read_metadata(snapshot_path(self.place.workspace.checkpoints, self.suite.name, segment.parent))

    def _write(
        self, end: Progress, metadata: SnapshotMetadata, statistics: dict[str, torch.Tensor], sample: dict[str, Any]
    ) -> SnapshotMetadata:
        """Write state, log and, last, the snapshot, so that a snapshot never lacks its other files."""
        # Without a lock, another process may have made it meanwhile, and its children.
        if not self.exclusive:
            existing = _existing(self.suite, self.segment.key, self.place.workspace)
            if existing is not None:
                return existing
        state: dict[str, Any] = {
            "update": end.update, "momentum": end.momentum, "tensors_sha256": hash_tensors(end.weights)
        }  # fmt: skip
        if not self.segment.derived:
            means = means_to_keep(self.suite, self.segment)
            state |= {
                "mean": _mean(end.mean, end.mean_count) if "epochs" in means else {},
                "kept": end.kept,
                "kept_momentum": end.kept_momentum,
            }
            if "tail" in means:
                state["tail_mean"] = _mean(end.tail, end.tail_count)
            if "moving" in means:
                decay = self.suite.schedule.moving_decay
                state["moving_mean"] = _mean(end.moving, (1 - decay**end.moving_count) / (1 - decay))
            write_log(self.path, self.segment.key.stage, end.records, self.control.say)
        if not self.segment.derived or self.segment.branches:
            save(state_path(self.path), state)
        write_snapshot(self.path, end.weights, metadata, statistics, sample)
        progress_path(self.path).unlink(missing_ok=True)
        return metadata

    def _train(self, model: nn.Module, start: Progress) -> Progress:
        """Train from `start` to the segment's end, saving and logging in the background."""
        started = time.perf_counter()
        first, is_writer = start.update, self.ranks.is_main
        with (
            closing(
                Trackers(self.place.trackers if is_writer else (), self.suite, self.path, self.control.say)
            ) as tracker,
            closing(Saver(self._save, self.device)) as saver,
        ):
            trainer = Trainer(
                model,
                self.segment,
                self.suite.schedule,
                self.suite.training,
                self.batches,
                self.normalise,
                start,
                micro_batch=start.batchnorm_shared or self.suite.training.micro_batch or self._piece,
                means=means_to_keep(self.suite, self.segment) if is_writer else (),
                epochs_to_keep=kept_epochs(self.suite, self.segment) if is_writer else {},
                statistics=self._statistics(model) if is_writer else None,
                logs_updates=is_writer and self.suite.training.update_statistics,
                keeps_stage_end=is_writer and keeps_stage_end(self.suite, self.segment),
                updates=self.suite.schedule.epochs * self.batches.updates_per_epoch,
                device=self.device,
                ranks=self.ranks,
                say=self.control.say,
                last_good=self._last_good,
                on_epoch_end=lambda records: saver.submit(partial(self._log_epoch, list(records), tracker)),
            )
            try:
                end = trainer.train(self.control, saver.save if is_writer else lambda progress: None, saver.wait)
            except InterruptedWork:
                # `plan` learns the pace also from runs that are often stopped.
                if is_writer and self.saved is not None and self.saved > first:
                    self._log_timing(self.saved - first, time.perf_counter() - started)
                raise
            saver.wait()
        if is_writer:
            self._log_timing(end.update - first, time.perf_counter() - started)
        return on_cpu(end)

    def _statistics(self, model: nn.Module) -> Callable[[], dict[str, float | None]] | None:
        """Return what computes the statistics of an epoch for the log; None if the suite does not ask for them."""
        count, schedule = self.suite.training.statistics_batches, self.suite.schedule
        if not count:
            return None
        batch = schedule.batch_of(len(self.source.train))
        return EpochStatistics(
            model, self.batches, self.normalise, count=count, batch=batch, decay=schedule.weight_decay
        ).compute

    @property
    def _piece(self) -> int | None:
        """Images in one forward and backward pass where nothing else decides; None for the whole batch."""
        return _PIECE if self.suite.schedule.batch == "all" else None

    def _log_epoch(self, records: list[dict[str, Any]], tracker: Tracker) -> None:
        if self.ranks.is_main:
            write_log(self.path, self.segment.key.stage, records, self.control.say)
            tracker.record(records[-1])

    def _log_timing(self, updates: int, seconds: float) -> None:
        images = updates * self.batches.batch
        append_timing(
            self.path,
            {
                "stage": self.segment.key.stage,
                "updates": updates,
                "seconds": round(seconds, 3),
                "images_per_second": round(images / seconds, 1),
                "device": device_name(self.device),
                "processes": self.ranks.world_size,
            },
        )

    def _not_finite(self, progress: Progress, broken: str) -> FailureError:
        # The loss of an update is of the weights before it, so no check has seen the last weights.
        return FailureError(
            f"The weights of {self.segment.key} are not finite after update {progress.update:,} ({broken}). "
            f"{self._last_good()}; finished snapshots are kept. Lower schedule.rates under a new suite name "
            "(--set name=NAME), or check the images for wrong values."
        )

    def _last_good(self) -> str:
        if self.saved is None:
            return f"The last good state is its parent {self.segment.parent}"
        return f"The last good state is that of update {self.saved:,}, which is saved"

    def _save(self, progress: Progress) -> None:
        if (broken := progress.not_finite()) is not None:
            raise self._not_finite(progress, broken)
        content = {field.name: getattr(progress, field.name) for field in fields(progress)}
        save(
            progress_path(self.path), {"recipe": recipe(self.suite), "fingerprint": self.source.fingerprint, **content}
        )
        self.saved = progress.update


def _mean(total: dict[str, torch.Tensor], count: float) -> dict[str, torch.Tensor]:
    return {name: tensor / count for name, tensor in total.items()}
