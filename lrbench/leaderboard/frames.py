"""Results as data: a tidy pandas DataFrame, and CSV, JSON, Parquet and LaTeX."""

import io
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import pandas

from lrbench.config import suggestion
from lrbench.config.relatives import RELATIVES
from lrbench.core.errors import InputError
from lrbench.core.escaping import for_markdown
from lrbench.core.files import sha256_bytes
from lrbench.core.workspace import FOREIGN, Workspace
from lrbench.leaderboard import foreign_page, tables
from lrbench.leaderboard.foreign_page import foreign_tables, render_foreign
from lrbench.leaderboard.gathering import gather, read_suite
from lrbench.leaderboard.markup import NOTHING, table
from lrbench.store.index import load_index
from lrbench.store.measures import FEATURES, curve_of
from lrbench.store.results import StoredResult, load_result, suites_with_results

Format = Literal["md", "csv", "json", "parquet", "latex"]

MEASURES = (*FEATURES, *(f"source_{name}" for name in FEATURES), *(f"cka_{name}" for name in RELATIVES))
"""Columns of measures beside accuracy."""

_COLUMNS = (
    "suite", "snapshot", "arm", "stage", "pretraining_seed", "task", "protocol", "seed", "metric", "headline", "top1", "top5",
    "mean_per_class", "source_accuracy", "source_simple", "source_complex", "source_memorised", "epoch", "learning_rate",
    "chosen", "on_edge", *MEASURES, "accuracy_by_shots", "score_by_depth", "train_count", "test_count", "partial", "seconds",
    "device", "task_fingerprint", "terms", "origin", "path",
)  # fmt: skip


def load_results(home: str | Path | None = None, suite: str | None = None) -> pandas.DataFrame:
    """Return the results of a workspace, one row for each cell.

    Accuracies are fractions in [0, 1]. `seconds` is the time that the cell took, `chosen` holds the hyper-parameters as JSON,
    `accuracy_by_shots` and `score_by_depth` hold the curves of `fewshot` and `depth` as JSON, and `path` is the record's file
    relative to the workspace. Rows of one task and protocol are comparable if their `terms` agree: a hash of the images, the
    metric, the settings and the protocol's version. `origin` names the collection that a received result came from. Arm,
    stage and pretraining seed are missing values for foreign snapshots, and measures beside accuracy where a result has none.

    Args:
        home: The workspace; None for `LRBENCH_HOME` or the current folder.
        suite: Name of a suite, to return its results only.

    Raises:
        InputError: The workspace has no results, or none of the suite.
    """
    workspace = _workspace(home)
    if not workspace.results.is_dir():
        raise InputError(
            f"there are no results in {workspace.results.absolute()}. Pass the workspace, which is the folder that contains "
            "`leaderboard/results`, or set LRBENCH_HOME to it."
        )
    known = suites_with_results(workspace.results)
    if suite is not None and suite not in known:
        raise InputError(
            f"there are no results of a suite {suite!r} in {workspace.results}. Suites with results: "
            f"{', '.join(known) or 'none'}."
        )
    rows = []
    for name in known if suite is None else [suite]:
        for entry in load_index(workspace.results, name, workspace.cache).entries:
            report, measures = json.loads(entry.report), json.loads(entry.measures)
            rows.append(
                (
                    entry.suite,
                    entry.reference,
                    entry.arm,
                    entry.stage,
                    entry.pretraining_seed,
                    entry.task,
                    entry.protocol,
                    entry.seed,
                    entry.metric,
                    entry.headline,
                    *(json.loads(entry.metrics).get(metric) for metric in ("top1", "top5", "mean_per_class")),
                    entry.source_accuracy,
                    *(report.get(part) for part in ("simple", "complex", "memorised")),
                    entry.epoch,
                    entry.rate,
                    entry.chosen,
                    entry.edge,
                    *(measures.get(measure) for measure in MEASURES),
                    _curve(measures, "shots_"),
                    _curve(measures, "depth_"),
                    entry.train_count,
                    entry.test_count,
                    entry.partial,
                    entry.seconds,
                    entry.device,
                    entry.fingerprint,
                    sha256_bytes(entry.conditions.to_json().encode())[:16],
                    entry.origin,
                    f"leaderboard/results/{name}/{entry.cell}.json",
                )
            )
    frame = pandas.DataFrame(rows, columns=list(_COLUMNS)).astype(dict.fromkeys(MEASURES, "float64"))
    return frame.astype(dict.fromkeys(["stage", "pretraining_seed", "epoch"], "Int64"))


def _curve(measures: dict[str, float], prefix: Literal["shots_", "depth_"]) -> str | None:
    """Return the measures of a curve as JSON, in the order of their numbers; None without any."""
    curve = curve_of(measures, prefix)
    return json.dumps(curve) if curve else None


def load_predictions(path: str | Path, home: str | Path | None = None) -> pandas.DataFrame:
    """Return the predictions of one result, one row for each test image.

    Columns: `index` (position in the test split), `image` (its name), `label` and `prediction` (class numbers),
    `label_name`, `prediction_name` and `correct`; for two classes also `score`, which is larger for class 1. Results of schema
    1 do not record names; their columns hold missing values.

    Args:
        path: The result's record, as in the column `path` of `load_results`.
        home: The workspace that the path is relative to; None for `LRBENCH_HOME` or the current folder.

    Raises:
        InputError: The result does not exist, or its files are damaged.

    Example:
        >>> results = lrbench.load_results()
        >>> wrong = lrbench.load_predictions(results.path[0]).query("not correct")
    """
    record = _workspace(home).root / path
    return predictions_frame(load_result(record, record.parent.name))


def predictions_frame(stored: StoredResult) -> pandas.DataFrame:
    """Return the predictions of a result, as `load_predictions` does."""
    predictions = stored.read_predictions(names=True)
    count, classes = len(predictions.index), dict(enumerate(predictions.classes or ()))
    frame = pandas.DataFrame(
        {
            "index": predictions.index,
            "image": pandas.Series([None] * count if predictions.images is None else predictions.images, dtype="str"),
            "label": predictions.label,
            "prediction": predictions.prediction,
        }
    )
    frame["label_name"] = frame.label.map(classes).astype("str")
    frame["prediction_name"] = frame.prediction.map(classes).astype("str")
    frame["correct"] = frame.label == frame.prediction
    if predictions.scores is not None:
        frame["score"] = predictions.scores
    return frame


def _workspace(home: str | Path | None) -> Workspace:
    return Workspace.current() if home is None else Workspace(root=Path(home).expanduser())


def formatted(
    workspace: Workspace, suites: Sequence[str], form: Format, *, protocol: str | None = None, arm: str | None = None
) -> bytes:
    """Return results in one of the formats.

    Args:
        workspace: The workspace with the results.
        suites: Names of the suites.
        form: `csv`, `json` and `parquet` have one row for each cell; `md` and `latex` have the tables of accuracy.
        protocol: Only results of this protocol.
        arm: Only results of this arm.

    Raises:
        InputError: No result matches.
    """
    if form in ("md", "latex"):
        return _tables(workspace, suites, form, protocol, arm).encode()
    frame = pandas.concat([load_results(workspace.root, suite) for suite in suites], ignore_index=True)
    if protocol is not None:
        frame = frame[frame.protocol == protocol]
    if arm is not None:
        frame = frame[frame.arm == arm]
    if frame.empty:
        raise InputError(_no_match(workspace, suites, protocol, arm))
    if form == "csv":
        return frame.to_csv(index=False, lineterminator="\n").encode()
    if form == "json":
        return (frame.to_json(orient="records", indent=1) + "\n").encode()
    buffer = io.BytesIO()
    frame.to_parquet(buffer, index=False)
    return buffer.getvalue()


def _tables(workspace: Workspace, suites: Sequence[str], form: str, protocol: str | None, arm: str | None) -> str:
    parts = []
    for name in suites:
        if name == FOREIGN:
            if form == "md" and arm is None and protocol is None:
                parts.append(render_foreign(workspace.results, workspace.cache).rstrip())
            elif arm is None:
                parts += _foreign_tables(workspace, form, protocol)
            continue
        suite = read_suite(workspace.results, name)
        for evidence in gather(workspace.results, suite, workspace.cache):
            rows = [row for row in evidence.rows if arm is None or row[0] == arm]
            own = suite.protocols if evidence.completed or not evidence.partial else ()
            kinds: list[tuple[str, str, Any]] = [(own_protocol, "", tables.accuracy_table) for own_protocol in own]
            kinds += [
                (other, " (other transfers)", tables.other_transfers) for other in tables.other_protocols(evidence)
            ]
            for shown, suffix, render in kinds:
                if not rows or protocol not in (None, shown):
                    continue
                text = render(evidence, shown, rows=rows, form="latex_booktabs" if form == "latex" else "github")
                title = f"{name}, {shown}{suffix}{' (partial data)' if evidence.partial else ''}"
                if text and form == "latex":
                    parts.append(_latex(title, tables.accuracy_legend(evidence, shown), text))
                elif text:
                    parts.append(f"### {for_markdown(title)}\n\n{text}")
    if not parts:
        raise InputError(_no_match(workspace, suites, protocol, arm))
    return "\n\n".join(["% In the preamble: \\usepackage{booktabs}", *parts] if form == "latex" else parts) + "\n"


def _foreign_tables(workspace: Workspace, form: str, protocol: str | None) -> list[str]:
    parts = []
    for shown in foreign_tables(load_index(workspace.results, FOREIGN, workspace.cache)):
        if protocol not in (None, shown.protocol):
            continue
        title = f"{FOREIGN}, {shown.protocol}{shown.remark}"
        if form == "latex":
            parts.append(_latex(title, foreign_page.legend(shown), table(shown.rows, "latex_booktabs")))
        else:
            parts.append(
                "\n\n".join([f"### {for_markdown(title)}", table(shown.rows), for_markdown(foreign_page.legend(shown))])
            )
    return parts


def _latex(title: str, caption: str, tabular: str) -> str:
    """Return a LaTeX table.

    Args:
        title: Suite and protocol, as plain text.
        caption: Explanation of the numbers, as plain text.
        tabular: Table from tabulate, with bold type in Markdown.
    """
    bold = re.sub(r"\*\*(.+?)\*\*", r"\\textbf{\1}", tabular)
    label = re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")
    lines = [
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{_for_latex(f'{title}. {caption}')}}}",
        rf"\label{{tab:{label}}}",
        _signs(bold),
        r"\end{table}",
    ]
    return "\n".join(lines)


def _for_latex(text: str) -> str:
    """Return plain text as LaTeX."""
    escaped = re.sub(r"[#$%&_{}]", r"\\\g<0>", text.replace("\\", "/"))
    return _signs(escaped.replace("~", r"\textasciitilde{}").replace("^", r"\textasciicircum{}"))


def _signs(text: str) -> str:
    for sign, command in (("±", r"$\pm$"), ("−", "$-$"), (NOTHING, "---"), ("→", r"$\to$")):
        text = text.replace(sign, command)
    return text


def _no_match(workspace: Workspace, suites: Sequence[str], protocol: str | None, arm: str | None) -> str:
    filters = [(word, value) for word, value in (("protocol", protocol), ("arm", arm)) if value]
    wanted = ", ".join(f"{word} {value}" for word, value in filters) or "a headline table"
    message = f"no result of {', '.join(suites)} has {wanted}."
    frame = pandas.concat([load_results(workspace.root, suite) for suite in suites], ignore_index=True)
    for word, value in filters:
        known = sorted(frame[word].dropna().unique())
        if value not in known:
            message += f"{suggestion(value, known)} The {word}s of these results: {', '.join(known) or 'none'}."
    return f"{message} `lrbench leaderboard --format csv` lists all."
