"""Making one snapshot: load the parent, train, re-estimate, evaluate, write; or find it made already."""

import time
from contextlib import ExitStack, closing
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lrbench.config import Suite
from lrbench.config.arms import ARMS
from lrbench.config.schedule import Segment, SnapshotKey, find_segment, kept_epochs, learning_rate, next_segment
from lrbench.core.control import Control
from lrbench.core.distributed import SINGLE_PROCESS, ProcessGroup
from lrbench.core.errors import FailureError, InputError, InterruptedWork
from lrbench.core.files import remove_file
from lrbench.core.locks import locked
from lrbench.core.machine import device_name, library_versions, source_revision
from lrbench.core.seeds import derive
from lrbench.core.workspace import Place, Workspace
from lrbench.data.batches import Batches
from lrbench.models.limits import refuse_misfit
from lrbench.models.networks import (
    InputNormalisation,
    batchnorm_layers,
    computing_threads,
    create_model,
    no_memory,
    pick_device,
    placed,
)
from lrbench.pretrain.batchnorm import reestimate
from lrbench.pretrain.beginning import Beginning, keeps_mean
from lrbench.pretrain.log import append_timing, clear_log, write_log
from lrbench.pretrain.saving import Saver, on_cpu
from lrbench.pretrain.source import Source, SourceScores, evaluate, open_source
from lrbench.pretrain.state import Progress, save
from lrbench.pretrain.step import Step, arithmetic
from lrbench.pretrain.tracking import Tracker, open_trackers
from lrbench.pretrain.trainer import Trainer
from lrbench.store.lineage import snapshot_exists
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

# A network takes the same images whatever its number of classes.
_SOME = 10


def make_snapshot(
    suite: Suite, key: SnapshotKey, place: Place, control: Control, ranks: ProcessGroup = SINGLE_PROCESS
) -> SnapshotMetadata:
    """Make one snapshot from its parent, or find it made already.

    Args:
        suite: The suite.
        key: Which snapshot; its parent must be made.
        place: Where to read and write.
        control: Told how far the work is, and asked whether to stop.
        ranks: The processes that make it together; the first one reads and writes.

    Returns:
        The snapshot's metadata.

    Raises:
        InputError: The source's data is not whole, or what lies in the snapshots' folder does not fit the suite.
        FailureError: The loss is not finite, there is not memory enough, or the disk is full.
        InterruptedWork: Asked to stop; the progress was saved.
    """
    path = snapshot_path(place.workspace.checkpoints, suite.name, key)
    with ExitStack() as held:
        alone = ranks.run_on_main(lambda: held.enter_context(locked(path, control)))
        ranks.run_on_main(lambda: _clear_away(path, control, alone=alone))
        made = ranks.run_on_main(lambda: _made(suite, key, place.workspace))
        return made or _Making(suite, find_segment(suite.schedule, key), place, path, control, ranks, alone=alone).run()


def _clear_away(path: Path, control: Control, *, alone: bool) -> None:
    """Remove what a killed process had begun to write: nobody else writes here while the lock is held."""
    stem = path.name.removesuffix(".safetensors")
    for stale in path.parent.glob(f".{stem}.*.part") if alone else ():
        stale.unlink(missing_ok=True)
    clear_log(path, control)


def _made(suite: Suite, key: SnapshotKey, workspace: Workspace) -> SnapshotMetadata | None:
    if not snapshot_exists(suite, key, workspace):
        return None
    path = snapshot_path(workspace.checkpoints, suite.name, key)
    # Of a process that was killed between the two: whoever deletes the snapshot to make it anew means all of it.
    remove_file(progress_path(path))
    return read_metadata(path)


class _Making:
    """One snapshot in the making: what its steps share."""

    def __init__(
        self,
        suite: Suite,
        segment: Segment,
        place: Place,
        path: Path,
        control: Control,
        ranks: ProcessGroup,
        *,
        alone: bool,
    ) -> None:
        # Whether no other process can be making the same snapshot.
        self.alone = alone
        self.suite, self.segment, self.place, self.path, self.control = suite, segment, place, path, control
        self.ranks = ranks
        self.shared: int | None = None
        # The update up to which this segment's progress is on the disk.
        self.saved: int | None = None
        self.device = pick_device()
        self.normalise = InputNormalisation(suite.input.mean, suite.input.std, self.device)
        # Before the source is prepared, which may take hours.
        refuse_misfit(suite.model.architecture, suite.model.arguments, classes=_SOME, size=suite.input.size)
        self.source: Source = open_source(
            suite.source, suite.input, place.roots, place.partial, place.pixel_cache, control
        )
        try:
            self.batches = Batches(
                pixels=self.source.train,
                labels=self.source.data.splits["train"].labels,
                seed=segment.key.seed,
                batch=suite.schedule.batch,
                size=suite.input.size,
                augmentation=suite.schedule.augmentation,
                rank=ranks.rank,
                world=ranks.world_size,
            )
        except InputError as error:
            # Every process meets it.
            raise ranks.mark_shared(error) from error

    def run(self) -> SnapshotMetadata:
        """Make the snapshot.

        Raises:
            FailureError: There is not memory enough, or weights are not finite.
        """
        try:
            with (
                computing_threads(self.device, self.suite.training.threads),
                arithmetic(self.device, deterministic=self.suite.training.deterministic),
            ):
                return self._run()
        except RuntimeError as error:
            if not no_memory(error):
                raise
            raise FailureError(
                f"there is not memory enough on the {self.device.type} to make {self.segment.key}: "
                f"{str(error).splitlines()[0]} Everything up to the last saved state is kept. Free memory, or use a smaller "
                "network, input or batch under a new name (--set name=NAME), and run the same command again."
            ) from error

    def _run(self) -> SnapshotMetadata:
        suite, key = self.suite, self.segment.key
        model = create_model(
            suite.model.architecture,
            suite.model.arguments,
            classes=len(self.source.data.classes),
            seed=derive(key.seed, "initialisation"),
        )
        beginning = Beginning(
            suite=suite,
            segment=self.segment,
            workspace=self.place.workspace,
            fingerprint=self.source.fingerprint,
            updates_per_epoch=self.batches.updates_per_epoch,
            say=self.control.say,
        )
        end = self.ranks.run_on_main(lambda: beginning.find(model))
        self.shared = self.ranks.run_on_main(lambda: self._shared(end, model))
        end = replace(end, batchnorm_shared=self.shared)
        if end.update > self.segment.first_epoch * self.batches.updates_per_epoch and not self.segment.derived:
            self.saved = end.update
        placed(model, self.device)
        if self.segment.parent is not None and not self.segment.derived:
            end = self._train(model, end)
            # Every process has the same weights, but BatchNorm's running statistics are those of its own images.
            end = replace(end, weights=self.ranks.run_on_main(lambda: end.weights))
        if (broken := end.not_finite()) is not None:
            raise self.ranks.mark_shared(self._not_finite(end, broken))
        model.load_state_dict(end.weights)
        model.eval()
        raw = evaluate(model, self.source, self.normalise, self.control, self.ranks)
        images = self.suite.batchnorm.images
        statistics, sample = self.ranks.run_on_main(
            lambda: reestimate(model, self.source.train, self.normalise, images=images, seed=key.seed)
        )
        scores = raw
        if statistics:
            model.load_state_dict(statistics, strict=False)
            scores = evaluate(model, self.source, self.normalise, self.control, self.ranks)
        metadata = self._metadata(end, scores, raw)
        return self.ranks.run_on_main(lambda: self._write_or_find(end, metadata, statistics, sample))

    def _write_or_find(
        self, end: Progress, metadata: SnapshotMetadata, statistics: dict[str, torch.Tensor], sample: dict[str, Any]
    ) -> SnapshotMetadata:
        # Without locks another process may have made it meanwhile, and children of it by now.
        if not self.alone and (made := _made(self.suite, self.segment.key, self.place.workspace)) is not None:
            return made
        self._write(end, metadata, statistics, sample)
        return metadata

    def _write(
        self, end: Progress, metadata: SnapshotMetadata, statistics: dict[str, torch.Tensor], sample: dict[str, Any]
    ) -> None:
        state: dict[str, Any] = {
            "update": end.update, "momentum": end.momentum, "tensors_sha256": hash_tensors(end.weights)
        }  # fmt: skip
        if not self.segment.derived:
            state |= {
                "mean": {name: tensor / end.mean_count for name, tensor in end.mean.items()},
                "kept": end.kept,
                "kept_momentum": end.kept_momentum,
            }
            write_log(self.path, self.segment.key.stage, end.records, self.control.say)
        if not self.segment.derived or self.segment.branches:
            save(state_path(self.path), state)
        write_snapshot(self.path, end.weights, metadata, statistics, sample)
        progress_path(self.path).unlink(missing_ok=True)

    def _shared(self, start: Progress, model: nn.Module) -> int | None:
        """Images that share BatchNorm statistics: as the suite says, else as where training goes on from, else a share.

        Raises:
            InputError: That number of images cannot be had with this number of processes.
        """
        share = self.suite.schedule.batch // self.ranks.world_size
        asked = self.suite.training.micro_batch
        if self.segment.derived:
            return start.batchnorm_shared
        if not batchnorm_layers(model):
            return None
        shared = asked or start.batchnorm_shared or share
        if shared == 1:
            raise InputError(
                f"{self.segment.key} would have BatchNorm statistics of one image, which has no variance: of a batch of "
                f"{self.suite.schedule.batch}, each of {self.ranks.world_size} processes has {share} at once"
                f"{' and training.micro_batch says 1' if asked else ''}. Give each at least two images."
            )
        if share % shared == 0:
            if self.segment.parent is None:
                return None
            before = start.batchnorm_shared
            if before not in (None, shared) and self.ranks.is_main:
                self.control.say(
                    f"{self.segment.key}: {shared} images share BatchNorm statistics from here on, as training.micro_batch "
                    f"says; before it were {before}"
                )
            return shared
        said = "training.micro_batch says" if asked else f"{self.segment.parent} was trained"
        raise InputError(
            f"{self.segment.key} would not be the same training: {shared} images share BatchNorm statistics, as {said}, and "
            f"each of {self.ranks.world_size} processes has {share} of a batch of {self.suite.schedule.batch}, which is no "
            f"multiple. Start a number of processes that gives each a multiple of {shared} images, or choose another number "
            f"knowingly: --set training.micro_batch={share}."
        )

    def _train(self, model: nn.Module, start: Progress) -> Progress:
        started = time.perf_counter()
        first, writes = start.update, self.ranks.is_main
        with (
            closing(open_trackers(self.place.trackers if writes else (), self.suite, self.path)) as tracker,
            closing(Saver(self._save, self.device)) as saver,
        ):
            trainer = Trainer(
                model,
                self.segment,
                self.suite.schedule,
                self.batches,
                self._step,
                start,
                # Only the first process writes.
                keep_mean=writes and keeps_mean(self.segment),
                keep_epochs=kept_epochs(self.suite, self.segment) if writes else {},
                device=self.device,
                ranks=self.ranks,
                last_good=self._last_good,
                # The log is put on the disk beside the training.
                each_epoch=lambda records: saver.then(partial(self._epoch, list(records), tracker)),
            )
            try:
                end = trainer.train(self.control, saver.save if writes else lambda progress: None, saver.wait)
            except InterruptedWork:
                self._stopped(first, started)
                raise
            saver.wait()
        if writes:
            self._timing(end.update - first, time.perf_counter() - started)
        return on_cpu(end)

    def _stopped(self, first: int, started: float) -> None:
        """Time what was trained before a stop, so that `plan` knows the pace of a run that is often stopped."""
        if self.ranks.is_main and self.saved is not None and self.saved > first:
            self._timing(self.saved - first, time.perf_counter() - started)

    def _step(self, model: nn.Module) -> Step:
        return Step(
            model,
            self.suite.schedule,
            self.suite.training,
            self.normalise,
            self.device,
            self.ranks,
            micro_batch=self.shared or self.suite.training.micro_batch,
            updates=self.suite.schedule.epochs * self.batches.updates_per_epoch,
            say=self.control.say,
        )

    def _epoch(self, records: list[dict[str, Any]], tracker: Tracker) -> None:
        if self.ranks.is_main:
            write_log(self.path, self.segment.key.stage, records, self.control.say)
            tracker.record(records[-1])

    def _timing(self, updates: int, seconds: float) -> None:
        images = updates * self.suite.schedule.batch
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
        # The loss of an update is that of the weights before it: nobody has looked at those after the last.
        return FailureError(
            f"the weights of {self.segment.key} are not finite after update {progress.update:,} ({broken}). "
            f"{self._last_good()}, and every snapshot made so far is kept. Use a smaller rate in schedule.rates under a new "
            "suite name (--set name=NAME), or look at the images for wrong values."
        )

    def _last_good(self) -> str:
        if self.saved is None:
            return f"The last good state is its parent {self.segment.parent}"
        return f"The last good state is that after update {self.saved:,}, which is saved"

    def _save(self, progress: Progress) -> None:
        if (broken := progress.not_finite()) is not None:
            raise self._not_finite(progress, broken)
        content = {each.name: getattr(progress, each.name) for each in fields(progress)}
        save(
            progress_path(self.path), {"recipe": recipe(self.suite), "fingerprint": self.source.fingerprint, **content}
        )
        self.saved = progress.update

    def _metadata(self, end: Progress, scores: SourceScores, raw: SourceScores) -> SnapshotMetadata:
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
            update=end.update,
            rate=self._rate(self.segment, end.update - 1) if key.stage else None,
            next_rate=self._next_rate(end.update),
            parent=None if self.segment.parent is None else str(self.segment.parent),
            parent_sha256=end.parent_sha256,
            kept=None
            if self.segment.derived or not key.stage
            else {each: each in end.kept_momentum for each in sorted(end.kept)},
            batchnorm_shared=end.batchnorm_shared,
            threads=suite.training.threads if self.device.type == "cpu" else None,
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

    def _rate(self, segment: Segment, update: int) -> float:
        return learning_rate(self.suite.schedule, segment, update, self.batches.updates_per_epoch)

    def _next_rate(self, update: int) -> float | None:
        """Learning rate of the update after the snapshot, or None after the last stage."""
        if ARMS[self.segment.key.arm].intermediate:
            return self._rate(self.segment, update)
        following = next_segment(self.suite, self.segment.key)
        return None if following is None else self._rate(following, update)
