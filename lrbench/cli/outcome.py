"""Printing of a transfer's result."""

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from lrbench.cli.common import note, warn

if TYPE_CHECKING:
    from lrbench.store.results import Result, StoredResult


# Difference of top-1 and mean per-class accuracy that is reported.
_FAR_APART = 0.05


def describe_result(stored: "StoredResult", task: str, printer: Callable[[str], None] | None) -> None:
    """Print a result with the notes and warnings that belong to it.

    Args:
        stored: The result and its path.
        task: Its task, as the user named it.
        printer: Prints the result itself; None to leave it out.
    """
    result = stored.result
    if printer is not None:
        printer(describe(result))
        if measured := _measures(result):
            note(measured)
        note(f"stored in {stored.path}")
    if result.selection.get("edge"):
        warn(
            f"the best grid point is on the edge of the grid ({_words(result.chosen)}). A wider grid may do better; widen it "
            "with --set."
        )
    elif (end := _at_the_end(result)) is not None:
        note(f"chose {end}; points inside the grid score the same, so no wider grid is needed")
    partner = result.settings.get("partner")
    if partner is not None and partner.get("sha256") == result.snapshot.sha256:
        warn("concat.partner is the snapshot itself, so this result equals the probe's.")
    shots = result.chosen.get("shots")
    if shots is not None and result.train_count < shots * result.task.classes:
        warn(
            f"some classes have fewer than {shots} training images. All of them were used: "
            f"{result.train_count:,} images of {result.task.classes:,} classes."
        )
    tried = result.selection.get("candidates", ())
    unsolved = sum(candidate.get("converged") is False for candidate in tried)
    if unsolved:
        warn(
            f"{unsolved} of the {len(tried)} fits of the grid did not converge within probe.iterations; see `selection` in "
            "the result."
        )
    if result.diagnostics.get("converged") is False:
        warn("the final fit did not converge; see `diagnostics` in the result.")
    if hint := metric_hint(result):
        note(hint)
    if result.partial:
        warn("the data is incomplete: this result is marked partial, and never ranked with full ones.")
    _warn_if_unlikely(result, task)


def metric_hint(result: "Result") -> str | None:
    """Return a hint to the key `metric` of a user's own task whose two accuracies are far apart; None otherwise."""
    from lrbench.config import load_task
    from lrbench.config.registry import find_registered_tasks, is_shipped

    name, top1, mean = result.task.name, result.metrics["top1"], result.metrics["mean_per_class"]
    if result.task.metric != "top1" or abs(top1 - mean) < _FAR_APART:
        return None
    # The metrics of shipped tasks are those of publications.
    if name in find_registered_tasks() and is_shipped(load_task(name)):
        return None
    return (
        f"top-1 ({100 * top1:.1f} %) and mean per-class accuracy ({100 * mean:.1f} %) of {name} are far apart: classes with "
        'many images dominate top-1. Set metric = "mean_per_class" in the task\'s TOML if every class matters equally; '
        "`lrbench results show` lists the classes."
    )


def note_remarks(task: str) -> None:
    """Print what the file of a task says about the data."""
    from lrbench.config import load_task

    known = load_task(task)
    for remark in known.about.notes:
        note(f"{known.name}: {remark}")


def _warn_if_unlikely(result: "Result", task: str) -> None:
    from lrbench.config import load_task

    band = load_task(task).about.sanity.get(result.protocol)  # type: ignore[call-overload]
    snapshot = result.snapshot
    # The ranges hold for ResNet-50 with any pretrained tag, not for snapshots of a suite, which are under test.
    network = snapshot.architecture.rpartition("/")[2].partition(".")[0]
    if band is None or network != "resnet50" or snapshot.random or snapshot.arm or result.partial:
        return
    low, high = band
    if not low <= result.headline <= high:
        warn(
            f"{100 * result.headline:.1f} % is outside the range of {100 * low:.0f} to {100 * high:.0f} % expected of a "
            f"ResNet-50 pretrained on ImageNet on {result.task.name} ({result.protocol}). If these are such weights, check the "
            f"data (`lrbench data verify {task}`), and the weights' input size and normalisation."
        )


def describe(result: "Result") -> str:
    """Return a result as one line."""
    from lrbench.config.protocols import gives_evidence

    names = {"top1": "top-1", "mean_per_class": "mean per-class accuracy"}
    other = "mean_per_class" if result.task.metric == "top1" else "top1"
    # LogME comes before the accuracy, which is that of a fixed linear model.
    score = f"LogME {result.chosen['logme']:.3f}, " if gives_evidence(result.protocol) else ""
    return (
        f"{result.snapshot.reference} → {result.task.name} ({result.protocol}, seed {result.seed}): {score}"
        f"{names[result.task.metric]} {100 * result.headline:.2f} %, {names[other]} {100 * result.metrics[other]:.2f} %, "
        f"{result.test_count:,} test images" + (f"; {chosen}" if (chosen := _chosen(result)) else "")
    )


def _measures(result: "Result") -> str:
    """Return the measures of a protocol that compares snapshots as one line; empty for other protocols."""
    from lrbench.config.protocols import find_protocol
    from lrbench.store.measures import measures_of

    if not find_protocol(result.protocol).compares:
        return ""
    return ", ".join(f"{name} {value:.3g}" for name, value in measures_of(result).items())


def _chosen(result: "Result") -> str:
    # Protocols without a grid list their fixed settings here.
    rest = {name: value for name, value in result.chosen.items() if name != "logme"}
    if not rest:
        return ""
    return f"{'chosen' if result.selection.get('candidates') else 'with'} {_words(rest)}"


def _at_the_end(result: "Result") -> str | None:
    """Return a phrase if the chosen strength is the grid's weakest or strongest."""
    grid, chosen = result.settings.get("probe", {}), result.chosen.get("strength")
    if grid.get("strengths", 1) > 1 and result.selection.get("candidates"):
        for end in ("weakest", "strongest"):
            if isinstance(chosen, float) and math.isclose(chosen, grid[end]):
                return f"strength {chosen:g}, the {end} of the grid"
    return None


def _words(chosen: Mapping[str, object]) -> str:
    return ", ".join(
        f"{name} {value:g}" if isinstance(value, float) else f"{name} {value}" for name, value in chosen.items()
    )
