"""Data of a suite's figures."""

from typing import Any

import numpy as np
import pandas

from lrbench.config.arms import ARMS
from lrbench.config.relatives import CONTROLS
from lrbench.leaderboard.evidence import MEAN_OF_TARGETS, Column, Evidence, Row, fits_null
from lrbench.leaderboard.markup import CHANGE, SHARE
from lrbench.leaderboard.tables import REPORT
from lrbench.stats.intervals import Estimate
from lrbench.stats.saturation import MIN_SNAPSHOTS, fit_null


def stage_data(evidence: Evidence) -> pandas.DataFrame:
    """Return the accuracy by protocol, target, arm and stage, with its interval and number of seeds."""
    records = [
        {
            "protocol": column.protocol,
            "target": column.task,
            "arm": row[0],
            "stage": row[1],
            **interval_record(accuracy, SHARE),
        }
        for column in evidence.columns
        for row in staged_rows(evidence)
        if (accuracy := evidence.accuracy(row, column)) is not None
    ]
    return _frame(records, "protocol", "target", "arm", "stage", "mean", "low", "high", "seeds")


def staged_rows(evidence: Evidence) -> list[Row]:
    """Return the snapshots at the ends of stages, without those of `trail`."""
    return [row for row in evidence.rows if not ARMS[row[0]].intermediate]


def tradeoff_data(evidence: Evidence) -> pandas.DataFrame:
    """Return the mean source and target errors by protocol, target, arm and stage, and whether the null is fitted to them."""
    records = []
    for column in evidence.columns:
        for row in evidence.rows:
            accuracy, source = evidence.accuracy(row, column), evidence.source_accuracy(row)
            if accuracy is not None and source is not None and row[1] > 0:
                records.append(
                    {
                        "protocol": column.protocol,
                        "target": column.task,
                        "arm": row[0],
                        "stage": row[1],
                        "source_error": round(100 * (1 - source.mean), 4),
                        "target_error": round(100 * (1 - accuracy.mean), 4),
                        "without_decay": fits_null(evidence.suite, row),
                    }
                )
    return _frame(records, "protocol", "target", "arm", "stage", "source_error", "target_error", "without_decay")


def null_curve(points: pandas.DataFrame, count: int = 40) -> pandas.DataFrame | None:
    """Return the saturation null through one target's snapshots without decay; None if they are too few to fit it.

    Args:
        points: Rows of `tradeoff_data` of one protocol and target.
        count: Number of points on the curve.

    Returns:
        Columns `source_error` and `target_error`, in points.
    """
    fitted = points[points.without_decay]
    if len(fitted) < MIN_SNAPSHOTS:
        return None
    errors = fitted.source_error.to_numpy() / 100
    null = fit_null(errors[:, None], fitted.target_error.to_numpy()[:, None] / 100)
    grid = np.linspace(errors.min(), errors.max(), count)
    predicted = [null.predict(float(error))[0] for error in grid]
    return pandas.DataFrame({"source_error": 100 * grid, "target_error": 100 * np.array(predicted)})


def control_data(evidence: Evidence) -> pandas.DataFrame:
    """Return the difference of `step` and each control by protocol, target and stage, with its interval and number of seeds.

    The first target of each protocol is `MEAN_OF_TARGETS`, if all targets have results.
    """
    pairs = [pair for pair in evidence.control_pairs() if pair[1][0] in CONTROLS]
    records = []
    for protocol in evidence.suite.protocols:
        for task in (MEAN_OF_TARGETS, *evidence.suite.targets):
            for row, control in pairs:
                value = (
                    evidence.mean_difference(row, control, protocol)
                    if task == MEAN_OF_TARGETS
                    else evidence.difference(row, control, Column(protocol=protocol, task=task))
                )
                if value is not None:
                    names = {"protocol": protocol, "target": task, "stage": row[1], "control": control[0]}
                    records.append({**names, **interval_record(value, CHANGE)})
    return _frame(records, "protocol", "target", "stage", "control", "mean", "low", "high", "seeds")


def source_report_data(evidence: Evidence) -> pandas.DataFrame:
    """Return the source report by measure, arm and stage, with its interval and number of seeds."""
    records = [
        {"measure": name, "arm": row[0], "stage": row[1], **interval_record(value, SHARE)}
        for name in REPORT
        if name in evidence.report
        for row in staged_rows(evidence)
        if (value := evidence.reported(name, row)) is not None
    ]
    return _frame(records, "measure", "arm", "stage", "mean", "low", "high", "seeds")


def interval_record(value: Estimate, possible: tuple[float, float]) -> dict[str, Any]:
    """Return mean, ends of the interval and number of seeds, in percent or points."""
    low, high = value.clip(*possible) or (None, None)
    return {
        "mean": round(100 * value.mean, 4),
        "low": None if low is None else round(100 * low, 4),
        "high": None if high is None else round(100 * high, 4),
        "seeds": value.seeds,
    }


def _frame(records: list[dict[str, Any]], *names: str) -> pandas.DataFrame:
    return pandas.DataFrame(records, columns=list(names))
