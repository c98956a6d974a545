"""Evaluation and comparison of networks of any library, without files."""

import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from lrbench.api.settings import options_of
from lrbench.cli.progress import showing_progress
from lrbench.config import load_task
from lrbench.config.protocols import PROTOCOLS, requested_protocols
from lrbench.config.suite import MARGIN
from lrbench.config.task import METRIC_NAMES
from lrbench.core.control import Control
from lrbench.core.errors import FailureError, InputError
from lrbench.core.files import user_path, writing
from lrbench.core.workspace import Place, Workspace, data_roots
from lrbench.leaderboard.recommendation_report import write_report
from lrbench.models.modules import Model
from lrbench.stats.images import interval_over_images
from lrbench.store.cells import Cell, TransferSettings
from lrbench.store.predictions import Predictions
from lrbench.store.references import PythonModel, Reference, SuiteSnapshot, resolve_reference
from lrbench.store.results import Result, StoredResult, read_result
from lrbench.transfer import recommend as comparing
from lrbench.transfer.cell import Transfer
from lrbench.transfer.recommendation import BY, Candidate
from lrbench.transfer.recommendation_text import recommendation_text

if TYPE_CHECKING:
    import pandas

Named = nn.Module | Model | str


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Outcome of one transfer.

    Attributes:
        result: The record, as lrbench stores it: metrics, choice, diagnostics and settings.
        test: Index, image, label and prediction of each test image.
    """

    result: Result
    test: Predictions

    @property
    def accuracy(self) -> float:
        """The task's headline metric on the test images, from 0 to 1."""
        return self.result.headline

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval of the accuracy over samples of test images; it does not cover other pretraining runs."""
        correct = (self.test.prediction == self.test.label).astype(float)
        return interval_over_images(correct, self.test.label.astype(int), self.result.task.metric)

    @property
    def metrics(self) -> dict[str, float]:
        """All metrics on the test images."""
        return dict(self.result.metrics)

    @property
    def chosen(self) -> dict[str, Any]:
        """The hyperparameters chosen on validation images."""
        return dict(self.result.chosen)

    @property
    def predictions(self) -> "pandas.DataFrame":
        """One row for each test image: `image`, `label`, `prediction`, and their class names."""
        import pandas

        classes = self.test.classes
        frame = pandas.DataFrame({"label": self.test.label, "prediction": self.test.prediction})
        if self.test.images is not None:
            frame.insert(0, "image", list(self.test.images))
        if classes is not None:
            frame["class"] = [classes[label] for label in self.test.label]
            frame["predicted_class"] = [classes[label] for label in self.test.prediction]
        return frame

    def __repr__(self) -> str:
        low, high = self.interval
        result = self.result
        return (
            f"{result.snapshot.reference} → {result.task.name}, {result.protocol}: {100 * self.accuracy:.1f} % "
            f"({100 * low:.1f} to {100 * high:.1f}) on {result.test_count:,} test images"
        )


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Networks ranked for a task.

    Attributes:
        table: One row for each network, best first: `model`, `logme`, `validation` and `accuracy` (both None if LogME excluded
            it or ranks alone), `parameters` and `multiply_adds` without the classifier, `images_per_second` while features were
            extracted, and `problem`.
        verdict: Whether the first is better than the second on the test images, in one sentence.
    """

    table: "pandas.DataFrame"
    verdict: str

    @property
    def best(self) -> str:
        """Name of the network ranked first."""
        return str(self.table["model"].iloc[0])

    def __repr__(self) -> str:
        return f"{self.table.to_string(index=False)}\n{self.verdict}"


def evaluate(
    model: Named,
    task: str | Path,
    protocol: str = "probe",
    *,
    settings: Mapping[str, Any] | None = None,
    seed: int = 0,
    data_root: str | Path | None = None,
    partial: bool = False,
    cache: bool = False,
    progress: bool = True,
) -> Evaluation:
    """Transfer a network to a task: select on validation images, refit, and read the test labels once.

    Nothing is stored, except prepared images with `cache`. A GPU is used if there is one.

    Args:
        model: A PyTorch module of any library; an `lrbench.Model`, which also states its input and features; or a reference
            as in `lrbench transfer`, such as `timm:resnet50.a1_in1k`.
        task: A task's name, or the path of a task TOML.
        protocol: `probe`, `knn`, `finetune`, `fewshot`, `logme` or `depth`; `head` for tasks that only test a classifier.
        settings: Changes of the protocol's settings, as `{"finetune.updates": 500}`.
        seed: Transfer seed: validation split and order of images.
        data_root: Folder of the data; None for `LRBENCH_DATA`, or else `./data`.
        partial: Whether to accept incomplete data.
        cache: Whether to keep prepared images in the workspace (`LRBENCH_HOME`), for the next call.
        progress: Whether to show progress on stderr.

    Raises:
        InputError: The model, task, protocol or a setting is unknown or wrong, or the data is missing or incomplete.
        OutOfMemory: Memory ran out.
        FailureError: Fine-tuning diverged.
        InterruptedWork: Ctrl-C.
    """
    name = str(task)
    load_task(name)
    if protocol not in requested_protocols():
        problem = PROTOCOLS.broken(protocol) or f"there is no protocol {protocol!r}"
        raise InputError(f"{problem}. Choose one of {', '.join(requested_protocols())}.")
    _check_seed(seed)
    reference = _reference(model)
    chosen = TransferSettings().with_changes([protocol], options_of(settings or {}))
    with _temporary_place(data_root, partial=partial, cache=cache) as place, _control(name, progress) as control:
        transfer = Transfer(reference, chosen, place, control)
        path = transfer.run(Cell(task=name, protocol=protocol, seed=seed))
        stored = StoredResult(result=read_result(path), path=path)
        return Evaluation(result=stored.result, test=stored.read_predictions(names=True))


def recommend(
    task: str | Path,
    models: Sequence[Named],
    *,
    by: str = BY[0],
    top: int = 5,
    report: str | Path | None = None,
    margin: float = MARGIN,
    settings: Mapping[str, Any] | None = None,
    seed: int = 0,
    data_root: str | Path | None = None,
    partial: bool = False,
    cache: bool = False,
    progress: bool = True,
) -> Comparison:
    """Compare networks on a task: rank all by LogME, then compare the best of them with the protocol `by`.

    Nothing is stored, except the report and, with `cache`, prepared images. Networks are ranked on validation images, or by
    cross-validation if there are few. Test images do not affect the ranking.

    Args:
        task: A task's name, or the path of a task TOML.
        models: As in `evaluate`. Modules of one class need names: `lrbench.Model(module=…, name=…)`.
        by: Protocol that ranks: `probe`, `knn` or `finetune` for the best by LogME, or `logme` for all.
        top: Number of networks that `by` compares, best LogME first.
        report: Folder into which a report is written: `report.md`, `report.html` and figures. None for no report.
        margin: Differences below this, in points, count as none.
        settings: Changes of the settings of `by`.
        seed: Transfer seed.
        data_root: As in `evaluate`.
        partial: As in `evaluate`.
        cache: As in `evaluate`.
        progress: As in `evaluate`.

    Raises:
        InputError: As in `evaluate`, two networks have the same name, or `by`, `top` or `margin` is out of range.
        FailureError: None of the networks could be compared.
        InterruptedWork: Ctrl-C.
    """
    import pandas

    if by not in BY:
        raise InputError(f"networks are not ranked by {by!r}. Choose one of {', '.join(BY)}.")
    _check_seed(seed)
    name = str(task)
    metric = METRIC_NAMES[load_task(name).metric]
    references = [_reference(model) for model in models]
    texts = [reference.text for reference in references]
    if twice := sorted({text for text in texts if texts.count(text) > 1}):
        raise InputError(f"two networks are called {twice[0]}. Name them: lrbench.Model(module=…, name=…).")
    chosen = TransferSettings().with_changes(list(dict.fromkeys(("logme", by))), options_of(settings or {}))
    if report is not None:
        # Nothing else is stored, so that a folder that cannot be written is reported before the work.
        with writing(folder := user_path(report)):
            folder.mkdir(parents=True, exist_ok=True)
    with _temporary_place(data_root, partial=partial, cache=cache) as place, _control(name, progress) as control:
        outcome = comparing.recommend(
            references, name, chosen, place, control, by=by, top=top, margin=margin, seed=seed
        )
        if report is not None:
            write_report(folder, outcome, load_task(name))
        rows = [_row(candidate) for candidate in outcome.ranked]
        if outcome.best is None:
            reason = rows[0]["problem"] if rows else "there are none."
            raise FailureError(f"none of the networks could be compared on {name}: {reason}")
        return Comparison(table=pandas.DataFrame(rows), verdict=recommendation_text(outcome, metric))


def _row(candidate: Candidate) -> dict[str, Any]:
    return {
        "model": candidate.reference.text.removeprefix("python:"),
        "logme": candidate.logme,
        "validation": candidate.score,
        "accuracy": None if candidate.result is None else candidate.result.result.headline,
        "parameters": None if candidate.cost is None else candidate.cost.parameters,
        "multiply_adds": None if candidate.cost is None else candidate.cost.multiply_adds,
        "images_per_second": candidate.speed,
        "problem": candidate.problem,
    }


def _check_seed(seed: int) -> None:
    if type(seed) is not int or not 0 <= seed < 2**63:
        raise InputError(f"the seed must be a whole number from 0 to 2⁶³ − 1, not {seed!r}.")


def _reference(model: Named) -> Reference:
    if isinstance(model, nn.Module):
        model = Model(module=model)
    if isinstance(model, Model):
        given = model
        return PythonModel(text=given.text, build=lambda: given)
    reference = resolve_reference(model, Workspace.current())
    # Results of a suite are computed with its own settings, which these are not.
    return reference.outside_suite() if isinstance(reference, SuiteSnapshot) else reference


@contextmanager
def _temporary_place(data_root: str | Path | None, *, partial: bool, cache: bool) -> Iterator[Place]:
    """Yield folders in which results exist for a while; prepared images stay in the user's workspace if asked."""
    roots = data_roots(None if data_root is None else Path(data_root))
    with tempfile.TemporaryDirectory(prefix="lrbench-") as folder:
        root = Path(folder)
        if cache and not os.environ.get("LRBENCH_CACHE"):
            kept = Workspace.current().cache.absolute()
            kept.mkdir(parents=True, exist_ok=True)
            (root / "cache").symlink_to(kept)
        yield Place(workspace=Workspace(root=root), roots=roots, partial=partial, cached=cache)


@contextmanager
def _control(title: str, progress: bool) -> Iterator[Control]:
    if not progress:
        yield Control()
        return
    with showing_progress(title) as control:
        yield control
