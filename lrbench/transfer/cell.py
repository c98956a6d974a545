"""One cell, from a snapshot and a target to a result: selection on validation, refit, and one look at the test labels."""

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from lrbench.config.protocols import PROTOCOLS
from lrbench.core.control import Control
from lrbench.core.errors import FailureError, InputError, InterruptedWork
from lrbench.core.files import sha256_json
from lrbench.core.machine import device_name, float32_modes, library_versions
from lrbench.core.workspace import Place
from lrbench.data.examples import Identity
from lrbench.data.split_lists import write_drawn_split, write_image_list
from lrbench.models.loading import LoadedSnapshot, load_snapshot
from lrbench.models.networks import (
    InputNormalisation,
    computing_threads,
    no_memory,
    penultimate,
    pick_device,
    placed,
    stages,
)
from lrbench.store.cells import Cell, CellStatus, TransferSettings, cell_status
from lrbench.store.predictions import Predictions
from lrbench.store.references import Reference, SuiteSnapshot, resolve_partner
from lrbench.store.results import write_result
from lrbench.transfer.diagnostics import describe_features
from lrbench.transfer.metrics import calibration, metrics
from lrbench.transfer.protocols import Draw, implementation
from lrbench.transfer.protocols.crossval import CrossValidation, assign_folds, cross_validate
from lrbench.transfer.protocols.finetune import Finetuning
from lrbench.transfer.protocols.points import Points
from lrbench.transfer.record import preprocessing, snapshot_record
from lrbench.transfer.selection import Choice, Indices, LabelledFeatures, SealedLabels
from lrbench.transfer.target import Features, Read, Target, extract, open_target


@dataclass(frozen=True, kw_only=True)
class _Outcome:
    """What a protocol came to, before the test labels are opened."""

    choice: Choice
    scores: torch.Tensor
    diagnostics: dict[str, Any]
    timings: dict[str, float]


@dataclass(frozen=True, kw_only=True)
class _Found:
    """Features of a task, how long they took, what they look like, and how long it took to see that."""

    features: Features
    seconds: float
    diagnostics: dict[str, float]
    described: float


class Transfer:
    """Transfers one snapshot: its network is loaded once, and each target's features are extracted once.

    Args:
        reference: The snapshot.
        settings: How it is transferred.
        place: Where to read and write.
        control: Told how far the work is.
    """

    def __init__(self, reference: Reference, settings: TransferSettings, place: Place, control: Control) -> None:
        self._reference = reference
        self._settings = settings
        self._place = place
        self._control = control
        self._device = pick_device()
        self._snapshot: LoadedSnapshot = load_snapshot(reference)
        self._model = placed(self._snapshot.model, self._device)
        self._input = self._snapshot.metadata.input
        self._normalise = InputNormalisation(self._input.mean, self._input.std, self._device)
        self._found: tuple[Identity, dict[str, _Found]] | None = None
        self._partner: LoadedSnapshot | None = None
        self.record = snapshot_record(self._snapshot, in_suite=isinstance(reference, SuiteSnapshot))

    def status(self, cell: Cell) -> CellStatus:
        """Return the status of a cell of this snapshot."""
        return cell_status(self._place, self._reference, cell, self._settings, sha256=self._snapshot.sha256)

    def run(self, cell: Cell) -> Path:
        """Compute one cell and write its result; an existing one is replaced.

        Returns:
            Path of the result.

        Raises:
            InputError: The target's data is missing, incomplete or does not decode, or no image can be held out for selection.
            FailureError: Fine-tuning diverged, memory ran out, or the disk is full.
            InterruptedWork: A stop was requested.
        """
        try:
            return self._run(cell)
        except RuntimeError as error:
            if not no_memory(error):
                raise
            raise FailureError(
                f"out of memory on the {self._device.type} when transferring {self._reference.text} to {cell.task} "
                f"({cell.protocol}): {str(error).splitlines()[0]} Free memory, for example of other processes on the same "
                f"GPU, and run the same command again. {PROTOCOLS[cell.protocol].memory_advice}".rstrip()
            ) from error

    def cross_validate(self, cell: Cell) -> CrossValidation:
        """Score the probe on one task by cross-validation, without its test images.

        Raises:
            InputError: The target's data is missing, half-copied or does not decode.
            InterruptedWork: Asked to stop.
        """
        place, started = self._place, time.perf_counter()
        target = open_target(cell.task, self._input, place.roots, place.partial, place.pixel_cache, self._control)
        labels = target.development.labels
        data = LabelledFeatures(
            features=self._features_of(target, cell).features.development, labels=torch.from_numpy(labels)
        )
        score, strength = cross_validate(
            data,
            classes=len(target.data.classes),
            metric=target.data.task.metric,
            settings=self._settings.probe,
            seed=cell.seed,
            control=self._control,
        )
        images = int((assign_folds(labels, cell.seed) >= 0).sum())
        return CrossValidation(
            score=score, strength=strength, images=images, seconds=round(time.perf_counter() - started, 4)
        )

    def _run(self, cell: Cell) -> Path:
        if self._control.stop_requested():
            raise InterruptedWork(
                "stopped between two cells; those done are kept. Run the same command again to go on."
            )
        place = self._place
        protocol = PROTOCOLS[cell.protocol]
        if protocol.features == "partner" and not (self._found and "partner" in self._found[1]):
            # One that is missing, or does not fit, is found before any image is read.
            self._loaded_partner()
        target = open_target(cell.task, self._input, place.roots, place.partial, place.pixel_cache, self._control)
        sealed = SealedLabels(target.data.splits["test"].labels)
        points = Points(self._points_path(target, cell) if protocol.trains else None)
        if protocol.trains:
            with computing_threads(self._device, self._settings.finetune.threads):
                outcome = self._finetune(target, cell, points)
        else:
            outcome = self._frozen(target, cell)
        labels = sealed.open(outcome.choice, outcome.scores)
        path = self._write(target, cell, outcome, torch.from_numpy(np.asarray(labels)))
        points.forget()
        return path

    def _split(self, target: Target, cell: Cell) -> tuple[Indices, Indices]:
        """Positions of the images to train on and to select on, of which there must be some."""
        train, validation = target.development.split(self._settings.validation, cell.seed)
        if not len(validation):
            others = " or ".join(f"--protocol {known.name}" for known in PROTOCOLS.values() if not known.selects)
            raise InputError(
                f"{cell.task} has one training image of each class and no validation split, so no image can be held out to "
                f"select the hyper-parameters of {cell.protocol}. Add training images, or use a protocol that selects "
                f"nothing ({others})."
            )
        return train, validation

    def _frozen(self, target: Target, cell: Cell) -> _Outcome:
        # Before features are extracted, since there may be nothing to select on.
        split = self._split(target, cell) if PROTOCOLS[cell.protocol].selects else (slice(None), slice(0))
        found = self._features_of(target, cell)
        features = found.features
        labels = torch.from_numpy(target.development.labels)
        everything = LabelledFeatures(features=features.development, labels=labels)
        module = implementation(cell.protocol)
        settings = module.configure(self._settings, widths=features.widths, seed=cell.seed)
        classes, metric = len(target.data.classes), target.data.task.metric
        started = time.perf_counter()
        given: dict[str, Any] = {"classes": classes, "settings": settings, "control": self._control}
        # The parts are copies, together as large as the whole: no name keeps them beyond the selection.
        choice = module.select(*map(everything.part, split), metric=metric, **given)
        selected = time.perf_counter()
        fitted = module.fit(everything, choice, **given)
        scores = fitted.scores(features.test)
        timings = {
            "features": found.seconds,
            "diagnostics": found.described,
            "selection": selected - started,
            "fit": time.perf_counter() - selected,
        }
        diagnostics = {**fitted.diagnostics, "features": found.diagnostics}
        if fitted.draw is not None:
            diagnostics["images_sha256"] = self._write_draw(target, fitted.draw, cell.seed)
        return _Outcome(choice=choice, scores=scores, diagnostics=diagnostics, timings=timings)

    def _write_draw(self, target: Target, draw: Draw, seed: int) -> str:
        name = target.data.task.name
        head = f"# {draw.description} of {name}, drawn by lrbench for transfer seed {seed}."
        lines = [target.development.ids[position] for position in draw.positions]
        return write_image_list(self._place.workspace.drawn_splits, f"{name}-{draw.name}-seed{seed}", head, lines)

    def _finetune(self, target: Target, cell: Cell, points: Points) -> _Outcome:
        train, validation = self._split(target, cell)
        tuning = Finetuning(
            self._model,
            target.development,
            classes=len(target.data.classes),
            size=self._input.size,
            normalise=self._normalise,
            settings=self._settings.finetune,
            seed=cell.seed,
            device=self._device,
            points=points,
        )
        started = time.perf_counter()
        choice = tuning.select(train, validation, metric=target.data.task.metric, control=self._control)
        selected = time.perf_counter()
        fitted = tuning.fit(choice, self._control)
        scores = fitted.scores(target.test)
        done = time.perf_counter()
        # What the features became; the other protocols tell what they were.
        diagnostics = {**fitted.diagnostics, "features": self._described(target, fitted.features())}
        timings = {
            "selection": selected - started + points.spared["selection"],
            "fit": done - selected + points.spared["fit"],
            "diagnostics": time.perf_counter() - done,
        }
        return _Outcome(choice=choice, scores=scores, diagnostics=diagnostics, timings=timings)

    def _described(self, target: Target, features: torch.Tensor) -> dict[str, float]:
        labels, classes = torch.from_numpy(target.development.labels), len(target.data.classes)
        return describe_features(features.to(self._device), labels, classes)

    def _points_path(self, target: Target, cell: Cell) -> Path:
        """Where scores of the grid are kept until the cell is done: under all that decides them."""
        task = target.data.task
        decides = {
            "protocol_version": PROTOCOLS[cell.protocol].version,
            "snapshot": [self._snapshot.sha256, self._snapshot.batchnorm],
            "task": [target.identity.fingerprint, target.identity.content, task.metric],
            "settings": self._settings.record(cell.protocol, task, self._reference, self._place.workspace),
            "seed": cell.seed,
            "preprocessing": preprocessing(
                target.transform, self._input, self._augmentation(cell), upright=target.data.task.upright
            ),
            "device": device_name(self._device),
            "versions": library_versions(),
        }
        return self._place.workspace.cache / "finetune" / f"{task.name}-{sha256_json(decides)[:16]}.json"

    def _features_of(self, target: Target, cell: Cell) -> _Found:
        """The features that a protocol reads; one task's are kept, since the next cell is most often of the same."""
        kind = PROTOCOLS[cell.protocol].features
        # The snapshot, its BatchNorm statistics and its transform are this object's own; the rest of the key is the target.
        if not self._found or self._found[0] != target.identity:
            self._found = (target.identity, {})
        kept = self._found[1]
        if kind not in kept:
            started = time.perf_counter()
            if kind == "partner":
                own = self._features_of(target, replace(cell, protocol="probe")).features
                partner = placed(self._loaded_partner().model, self._device)
                features = own.beside(self._extract(partner, target, penultimate))
                # What comes next may need the memory.
                self._partner = None
            else:
                read = stages if kind == "stages" else penultimate
                features = self._extract(self._model, target, read)
            if not bool(torch.isfinite(features.development).all() & torch.isfinite(features.test).all()):
                raise InputError(
                    f"the features that {self._reference.text} gives of {cell.task} are not finite, so nothing can be learnt "
                    "from them: its weights are damaged, or were when they were saved. `lrbench snapshots verify` looks at "
                    "those that lie here."
                )
            extracted = time.perf_counter()
            # Of several depths, those that come last are the network's own features.
            own_width = features.widths[-1] if kind == "stages" else sum(features.widths)
            described = self._described(target, features.development[:, -own_width:])
            kept[kind] = _Found(
                features=features,
                seconds=extracted - started,
                diagnostics=described,
                described=time.perf_counter() - extracted,
            )
        return kept[kind]

    def _loaded_partner(self) -> LoadedSnapshot:
        if self._partner is not None:
            return self._partner
        reference = resolve_partner(self._reference, self._settings.concat.partner, self._place.workspace)
        partner = load_snapshot(reference)
        settings = partner.metadata.input
        if settings != self._input:
            raise InputError(
                f"{reference.text} takes other inputs than {self._reference.text} (size, crop, interpolation or "
                "normalisation), and concat reads both from one preparation of the images. Choose a partner with the same."
            )
        self._partner = partner
        return partner

    def _extract(self, model: nn.Module, target: Target, read: Read) -> Features:
        return extract(model, target, self._normalise, self._control, read).to(self._device)

    def _write(self, target: Target, cell: Cell, outcome: _Outcome, labels: torch.Tensor) -> Path:
        task = target.data.task
        measured, diagnostics = metrics(outcome.scores, labels), outcome.diagnostics
        if PROTOCOLS[cell.protocol].logits:
            error, likelihood = calibration(outcome.scores, labels)
            measured = {**measured, "expected_calibration_error": error}
            diagnostics = {**diagnostics, "negative_log_likelihood": likelihood}
        record = {
            "protocol_version": PROTOCOLS[cell.protocol].version,
            "suite": self._reference.results_folder,
            "snapshot": self.record.model_dump(mode="json"),
            "task": {
                "name": task.name,
                "fingerprint": target.identity.fingerprint,
                "content_sha256": target.identity.content,
                "classes": len(target.data.classes),
                "metric": task.metric,
                **self._drawn_split(target),
                **({"partial": True} if target.data.partial else {}),
            },
            "protocol": cell.protocol,
            "seed": cell.seed,
            "preprocessing": preprocessing(
                target.transform, self._input, self._augmentation(cell), upright=target.data.task.upright
            ),
            "partial": target.data.partial or self.record.source_partial,
            "metrics": measured,
            "train_count": diagnostics.get("images", len(target.development.labels)),
            "test_count": len(labels),
            "chosen": outcome.choice.chosen,
            "selection": {
                "metric": outcome.choice.metric,
                "on": "nothing: fixed beforehand"
                if not outcome.choice.candidates
                else "validation split"
                if len(target.development.given)
                else "held-out share of train",
                "edge": outcome.choice.edge,
                "candidates": list(outcome.choice.candidates),
            },
            "diagnostics": diagnostics,
            "settings": self._settings.record(cell.protocol, task, self._reference, self._place.workspace),
            "timings": {name: round(seconds, 4) for name, seconds in outcome.timings.items()},
            "device": device_name(self._device),
            "arithmetic": float32_modes(self._device),
            "versions": library_versions(),
        }
        predictions = Predictions(
            index=np.arange(len(labels)),
            label=labels.numpy(),
            prediction=outcome.scores.cpu().argmax(1).numpy(),
            images=target.data.splits["test"].ids,
            classes=target.data.classes,
        )
        return write_result(self._place.workspace.results, record, predictions)

    def _augmentation(self, cell: Cell) -> str | None:
        return self._settings.finetune.augmentation if PROTOCOLS[cell.protocol].trains else None

    def _drawn_split(self, target: Target) -> dict[str, str]:
        if target.data.drawn_list is None:
            return {}
        return {"split_sha256": write_drawn_split(self._place.workspace.drawn_splits, target.data)}
