"""Transfer of a snapshot, cell by cell: selection on validation images, final fit, and one look at the test labels."""

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lrbench.config import load_task
from lrbench.config.protocols import (
    HEAD,
    PROTOCOLS,
    RESERVED,
    SOURCE_FIT,
    SOURCE_HITS,
    find_protocol,
    source_splits,
)
from lrbench.core.control import Control
from lrbench.core.errors import InputError, InterruptedWork, OutOfMemory
from lrbench.core.files import sha256_json
from lrbench.core.machine import device_name, library_versions
from lrbench.core.workspace import Place
from lrbench.data.examples import TaskData
from lrbench.data.split_lists import write_drawn_split, write_image_list
from lrbench.models.devices import computing_threads, is_out_of_memory
from lrbench.models.network_cost import NetworkCost, measure_cost
from lrbench.pretraining.tracking import track_result
from lrbench.store.cells import Cell, CellStatus, TransferSettings, cell_status
from lrbench.store.predictions import Predictions
from lrbench.store.references import Reference, SuiteSnapshot
from lrbench.store.results import read_result, write_result
from lrbench.transfer.features import FeatureCache, Network, describe_development
from lrbench.transfer.fit import describe_fit
from lrbench.transfer.head import check_head, predict_head
from lrbench.transfer.metrics import binary_scores
from lrbench.transfer.protocols import Draw, implementation, naming_plugin
from lrbench.transfer.protocols.crossval import CrossValidation, assign_folds, cross_validate
from lrbench.transfer.protocols.finetune import Finetuning
from lrbench.transfer.protocols.finetune_run import FinetuneContext
from lrbench.transfer.protocols.points import Points
from lrbench.transfer.record import Outcome, preprocessing, result_record, snapshot_record
from lrbench.transfer.representation import Representation
from lrbench.transfer.selection import Indices, LabelledFeatures, SealedLabels
from lrbench.transfer.source import open_source_images, predict_source, select_fit, select_hits, select_test
from lrbench.transfer.target import Target, open_target


class Transfer:
    """Transfer of one snapshot. Its network is loaded once, and the features of the latest target are kept.

    Args:
        reference: The snapshot.
        settings: Settings of the protocols.
        place: Folders of data, results and caches.
        control: Receives progress and may request a stop.

    Attributes:
        record: The `snapshot` entry of its results.
    """

    def __init__(self, reference: Reference, settings: TransferSettings, place: Place, control: Control) -> None:
        self._reference = reference
        self._settings = settings
        self._place = place
        self._control = control
        self._network = Network.load(reference)
        self._features = FeatureCache(self._network, settings.concat.partner, place.workspace, control)
        self._representation = Representation(self._network, place, control)
        self.record = snapshot_record(self._network.snapshot, in_suite=isinstance(reference, SuiteSnapshot))

    def status(self, cell: Cell) -> CellStatus:
        """Return the status of a cell of this snapshot."""
        return cell_status(self._place, self._reference, cell, self._settings, sha256=self._network.snapshot.sha256)

    def run(self, cell: Cell) -> Path:
        """Compute one cell and write its result; an existing one is replaced.

        Returns:
            Path of the result.

        Raises:
            InputError: The target's data is missing, incomplete or does not decode, or no image can be held out for selection.
            OutOfMemory: Memory ran out.
            FailureError: Fine-tuning diverged, or the disk is full.
            InterruptedWork: A stop was requested.
        """
        if self._control.stop_requested():
            raise InterruptedWork(
                "stopped between two cells. Finished cells are saved. Run the same command again to continue."
            )
        try:
            path = self._run(cell)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            raise OutOfMemory(
                f"out of memory on the {self._network.device.type} when transferring {self._reference.text} to {cell.task} "
                f"({cell.protocol}): {str(error).splitlines()[0]} Free memory, for example of other processes on the same "
                f"GPU, and run the same command again. {find_protocol(cell.protocol).memory_advice}".rstrip()
            ) from error
        self._track(path)
        return path

    def _track(self, path: Path) -> None:
        """Send a stored result to trackers. Their failures do not affect the result."""
        if not self._place.trackers:
            return
        try:
            track_result(self._place.trackers, read_result(path), self._place.workspace)
        except Exception as error:
            # Services fail in any way.
            self._control.say(f"{path} is stored, but was not sent to --track: {type(error).__name__}: {error}")

    def cross_validate(self, cell: Cell) -> CrossValidation:
        """Score the probe or kNN on one task by cross-validation, without its test images.

        Raises:
            InputError: The target's data is missing, incomplete or does not decode.
            InterruptedWork: A stop was requested.
        """
        started = time.perf_counter()
        target = self._open_target(cell)
        labels = target.development.labels
        features = self._features.get(target, PROTOCOLS[cell.protocol].features).features
        score, point = cross_validate(
            LabelledFeatures(features=features.development, labels=torch.from_numpy(labels)),
            protocol=cell.protocol,
            classes=len(target.data.classes),
            metric=target.data.task.metric,
            settings=self._settings,
            seed=cell.seed,
            groups=target.development.groups,
            control=self._control,
        )
        images = int((assign_folds(labels, cell.seed, groups=target.development.groups) >= 0).sum())
        return CrossValidation(score=score, point=point, images=images, seconds=round(time.perf_counter() - started, 4))

    def cost(self) -> NetworkCost:
        """Return the cost of the snapshot's network."""
        return measure_cost(self._network.model, self._network.input.size)

    def _open_target(self, cell: Cell) -> Target:
        place = self._place
        return open_target(cell.task, self._network.input, place.roots, place.partial, place.pixel_cache, self._control)

    def _run(self, cell: Cell) -> Path:
        if cell.protocol in RESERVED:
            return self._predict_source(cell)
        if cell.protocol == HEAD.name:
            return self._predict_head(cell)
        protocol = PROTOCOLS[cell.protocol]
        if protocol.features == "partner":
            self._features.check_partner()
        target = self._open_target(cell)
        sealed = SealedLabels(target.data.splits["test"].labels, len(target.data.classes))
        points = Points(self._points_path(target, cell) if protocol.trains else None)
        with naming_plugin(cell.protocol):
            if protocol.trains:
                with computing_threads(self._network.device, self._settings.finetune.threads):
                    outcome = self._finetune(target, cell, points)
            else:
                outcome = self._run_on_features(target, cell)
            labels = sealed.open(outcome.choice, outcome.scores)
            has_validation = len(target.development.given) > 0
            names = target.data.splits["test"].ids
            path = self._write(target.data, cell, outcome, torch.from_numpy(np.asarray(labels)), names, has_validation)
        points.delete()
        return path

    def _predict_source(self, cell: Cell) -> Path:
        place, network = self._place, self._network
        is_hits, is_fit = cell.protocol == SOURCE_HITS.name, cell.protocol == SOURCE_FIT.name
        splits = source_splits(cell.protocol)
        source = open_source_images(
            cell.task, network.input, splits, place.roots, place.partial, place.pixel_cache, self._control
        )
        if is_fit:
            selected = select_fit(source.data, self._settings.source_fit.images)
        else:
            selected = select_hits(source.data) if is_hits else select_test(source.data)
        outcome = predict_source(network, source, selected, self._control)
        labels = torch.from_numpy(selected.labels(source.data))
        if is_fit:
            assert isinstance(self._reference, SuiteSnapshot)
            described = describe_fit(
                network,
                source.pixels["train"],
                selected.parts[0][1],
                labels,
                outcome.scores,
                self._settings.source_fit,
                decay=self._reference.suite.schedule.weight_decay,
            )
            outcome = replace(outcome, diagnostics={"fit": described})
        return self._write(source.data, cell, outcome, labels, selected.names(source.data), has_validation_split=False)

    def _predict_head(self, cell: Cell) -> Path:
        check_head(self._network, load_task(cell.task))
        place = self._place
        tested = open_source_images(
            cell.task, self._network.input, ("test",), place.roots, place.partial, place.pixel_cache, self._control
        )
        outcome = predict_head(self._network, tested, self._control)
        test = tested.data.splits["test"]
        return self._write(
            tested.data, cell, outcome, torch.from_numpy(test.labels), test.ids, has_validation_split=False
        )

    def _split(self, target: Target, cell: Cell) -> tuple[Indices, Indices]:
        """Return positions of the images to train on and to select on, of which there is at least one."""
        train, validation = target.development.split(self._settings.validation, cell.seed)
        if not len(validation):
            lacks = "has one training image of each class"
            if target.development.groups is not None:
                lacks = "has no group of training images whose classes are all in other groups, too,"
            others = " or ".join(f"--protocol {known.name}" for known in PROTOCOLS.values() if not known.selects)
            raise InputError(
                f"{cell.task} {lacks} and no validation split, so no image can be held out to select the hyper-parameters of "
                f"{cell.protocol}. Add training images, or use a protocol that selects nothing ({others})."
            )
        return train, validation

    def _run_on_features(self, target: Target, cell: Cell) -> Outcome:
        protocol, module = PROTOCOLS[cell.protocol], implementation(cell.protocol)
        # Without images to select on, the cell is refused before features are extracted.
        split = self._split(target, cell) if protocol.selects else (slice(None), slice(0))
        extracted = self._features.get(target, protocol.features)
        features = extracted.features
        labels = torch.from_numpy(target.development.labels)
        data = LabelledFeatures(features=features.development, labels=labels)
        arguments: dict[str, Any] = {
            "classes": len(target.data.classes),
            "settings": module.configure(self._settings, widths=features.widths, seed=cell.seed),
            "control": self._control,
        }
        started = time.perf_counter()
        # The parts are copies, together as large as the whole: no variable holds them beyond the selection.
        choice = module.select(*map(data.part, split), metric=target.data.task.metric, **arguments)
        selected = time.perf_counter()
        fitted = module.fit(data, choice, **arguments)
        scores = fitted.scores(features.test)
        timings = {
            "features": extracted.seconds,
            "diagnostics": extracted.diagnostics_seconds,
            "selection": selected - started,
            "fit": time.perf_counter() - selected,
        }
        diagnostics = {**fitted.diagnostics, "features": extracted.diagnostics}
        if protocol.compares:
            comparison = self._representation.compare(target, features.test)
            diagnostics |= comparison.diagnostics
            timings |= comparison.timings
        if fitted.draw is not None:
            diagnostics["images_sha256"] = self._write_draw(target, fitted.draw, cell.seed)
        return Outcome(
            choice=choice,
            scores=scores,
            train_count=len(labels) if fitted.draw is None else len(fitted.draw.positions),
            diagnostics=diagnostics,
            timings=timings,
            by_shots={shots: other.scores(features.test).argmax(1).cpu() for shots, other in fitted.by_shots.items()},
        )

    def _write_draw(self, target: Target, draw: Draw, seed: int) -> str:
        """Write the list of images that a protocol drew; return its hash."""
        name = target.data.task.name
        head = f"# {draw.description} of {name}, drawn by lrbench for transfer seed {seed}."
        lines = [target.development.ids[position] for position in draw.positions]
        return write_image_list(self._place.workspace.drawn_splits, f"{name}-{draw.name}-seed{seed}", head, lines)

    def _finetune(self, target: Target, cell: Cell, points: Points) -> Outcome:
        train, validation = self._split(target, cell)
        tuning = Finetuning(
            FinetuneContext(
                model=self._network.model,
                development=target.development,
                classes=len(target.data.classes),
                size=self._network.input.size,
                normalise=self._network.normalise,
                settings=self._settings.finetune,
                seed=cell.seed,
                device=self._network.device,
                points=points,
            )
        )
        started = time.perf_counter()
        choice = tuning.select(train, validation, metric=target.data.task.metric, control=self._control)
        selected = time.perf_counter()
        fitted = tuning.fit(choice, self._control)
        scores = fitted.scores(target.test)
        done = time.perf_counter()
        # Features of the fine-tuned network; the other protocols describe those of the snapshot.
        described = describe_development(fitted.features(), target, self._network.device)
        return Outcome(
            choice=choice,
            scores=scores,
            train_count=len(target.development.labels),
            diagnostics={**fitted.diagnostics, "features": described},
            timings={
                "selection": selected - started + points.earlier_seconds["selection"],
                "fit": done - selected + points.earlier_seconds["fit"],
                "diagnostics": time.perf_counter() - done,
            },
        )

    def _points_path(self, target: Target, cell: Cell) -> Path:
        """Return the path of a cell's unfinished grid, whose name is a hash of all that the scores depend on."""
        task, snapshot = target.data.task, self._network.snapshot
        inputs = {
            "protocol_version": PROTOCOLS[cell.protocol].version,
            "snapshot": [snapshot.sha256, snapshot.batchnorm],
            "task": [target.identity.fingerprint, target.identity.content, task.metric],
            "settings": self._settings.record(cell.protocol, task, self._reference, self._place.workspace),
            "seed": cell.seed,
            "preprocessing": preprocessing(task, self._network.input, self._settings, cell),
            "device": device_name(self._network.device),
            "versions": library_versions(),
        }
        return self._place.workspace.cache / "finetune" / f"{task.name}-{sha256_json(inputs)[:16]}.json"

    def _write(
        self,
        data: TaskData,
        cell: Cell,
        outcome: Outcome,
        labels: torch.Tensor,
        names: Sequence[str],
        has_validation_split: bool,
    ) -> Path:
        workspace, task = self._place.workspace, data.task
        is_drawn = data.drawn_list is not None
        record = result_record(
            cell,
            data,
            outcome,
            labels,
            suite=self._reference.results_folder,
            snapshot=self.record,
            preprocessing=preprocessing(task, self._network.input, self._settings, cell),
            settings=self._settings.record(cell.protocol, task, self._reference, workspace),
            split_sha256=write_drawn_split(workspace.drawn_splits, data) if is_drawn else None,
            has_validation_split=has_validation_split,
            device=self._network.device,
        )
        predictions = Predictions(
            index=np.arange(len(labels)),
            label=labels.numpy(),
            prediction=outcome.scores.cpu().argmax(1).numpy(),
            images=names,
            classes=data.classes,
            scores=binary_scores(outcome.scores),
        )
        return write_result(workspace.results, record, predictions)
