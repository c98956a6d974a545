"""`lrbench results show`: one result by class, and its predictions as a file."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lrbench.cli.common import JsonOption, emit_json, note, show, table

if TYPE_CHECKING:
    from lrbench.stats.classification import ClassMeasures
    from lrbench.store.results import StoredResult

# More classes are cut to the least accurate ones.
_MOST_CLASSES, _FEWEST = 40, 20
_MOST_CONFUSIONS = 10
# A larger confusion matrix does not fit in a terminal.
_MATRIX = 12
_MOST_COLUMNS = 2_000


def show_(
    name: Annotated[
        str, typer.Argument(metavar="RESULT", help="Name as `results list` prints it, or path of the record.")
    ],
    all_: Annotated[bool, typer.Option("--all", help="Show all classes and confusions.")] = False,
    predictions: Annotated[
        Path | None,
        typer.Option(
            "--predictions", metavar="FILE", help="Write image and class names, .csv or .parquet, one row per image."
        ),
    ] = None,
    confusion: Annotated[
        Path | None, typer.Option("--confusion", metavar="FILE", help="Write the confusion matrix as .csv.")
    ] = None,
    json_: JsonOption = False,
) -> None:
    """Show a result by class: accuracy, precision and F1, the most frequent confusions, and AUC for two classes."""
    from lrbench.cli.outcome import describe, metric_hint
    from lrbench.core.errors import InputError
    from lrbench.core.workspace import Workspace
    from lrbench.stats.classification import count_confusions, measure_classes, measure_scores, summarise_classes
    from lrbench.store.results import load_result
    from lrbench.store.selection import select_results

    workspace = Workspace.current()
    matched = select_results(workspace, [name])
    if len(matched) > 1:
        raise InputError(f"{len(matched)} results are named {name!r}, such as {matched[0]} and {matched[1]}. Name one.")
    stored = load_result(matched[0].path(workspace), matched[0].suite)
    result, predicted = stored.result, stored.read_predictions(names=True)
    count = result.task.classes
    names = list(predicted.classes or map(str, range(count)))
    measures = measure_classes(predicted.label, predicted.prediction, count)
    summary = summarise_classes(predicted.label, predicted.prediction, measures)
    if predicted.scores is not None:
        summary |= measure_scores(predicted.label, predicted.scores)
    confusions = count_confusions(predicted.label, predicted.prediction, count)
    if predictions is not None:
        _write_predictions(stored, predictions)
    if confusion is not None:
        _write_confusion(confusion, names, confusions)
    if json_:
        emit_json(_as_json(stored, names, measures, summary, confusions))
        return
    # A name of several lines would look like output of lrbench.
    names = [" ".join(name.split()) for name in names]
    show(describe(result))
    show(_words(summary, names))
    show("\n" + _class_table(names, measures, whole=all_))
    if count <= _MATRIX:
        show("\nRows: true class. Columns: predicted class.\n" + _matrix(names, confusions))
    elif wrong := [pair for pair in confusions if pair[0] != pair[1]]:
        kept = wrong if all_ else wrong[:_MOST_CONFUSIONS]
        rows = [{"true class": names[true], "predicted": names[other], "images": f"{n:,}"} for true, other, n in kept]
        show(f"\nMost frequent confusions, {len(kept):,} of {len(wrong):,}:\n" + table(rows, wrapped="predicted"))
    if count == 2 and predicted.scores is None:
        note("this result stores no scores, so it has no AUC; `lrbench transfer --again` stores them")
    if hint := metric_hint(result):
        note(hint)


def _words(summary: dict[str, float], names: list[str]) -> str:
    text = (
        f"macro F1 {100 * summary['macro_f1']:.2f} %, weighted F1 {100 * summary['weighted_f1']:.2f} %, Matthews correlation "
        f"{summary['matthews']:.3f}"
    )
    if "auc" in summary:
        text += f", AUC {summary['auc']:.4f}, average precision of {names[1]} {summary['average_precision']:.4f}"
    return text


def _class_table(names: list[str], measures: "ClassMeasures", *, whole: bool) -> str:
    order = list(range(len(names)))
    head = ""
    if len(names) > _MOST_CLASSES and not whole:
        tested = [label for label in order if measures.images[label]]
        order = sorted(tested, key=lambda label: float(measures.accuracy[label]))[:_FEWEST]
        head = f"The {len(order)} least accurate of {len(names):,} classes (--all shows all):\n"
    rows = [
        {
            "class": names[label],
            "images": f"{measures.images[label]:,}",
            "accuracy": f"{100 * measures.accuracy[label]:.1f} %" if measures.images[label] else "",
            "precision": f"{100 * measures.precision[label]:.1f} %",
            "F1": f"{100 * measures.f1[label]:.1f} %",
        }
        for label in order
    ]
    return head + table(rows, wrapped="class")


def _matrix(names: list[str], confusions: list[tuple[int, int, int]]) -> str:
    counts = {(true, other): count for true, other, count in confusions}
    rows = [
        {
            "": names[true],
            **{f"{other}: {names[other]}"[:14]: f"{counts.get((true, other), 0):,}" for other in range(len(names))},
        }
        for true in range(len(names))
    ]
    return table(rows, wrapped="")


def _write_predictions(stored: "StoredResult", path: Path) -> None:
    from lrbench.core.errors import InputError
    from lrbench.core.files import atomic_path, user_path
    from lrbench.leaderboard.frames import predictions_frame

    target = user_path(path)
    if target.suffix not in (".csv", ".parquet"):
        raise InputError(f"--predictions {path} ends in neither .csv nor .parquet. Name a file that does.")
    frame = predictions_frame(stored)
    with atomic_path(target) as temporary:
        if target.suffix == ".csv":
            frame.to_csv(temporary, index=False, lineterminator="\n")
        else:
            frame.to_parquet(temporary, index=False)
    note(f"wrote {target}")


def _write_confusion(path: Path, names: list[str], confusions: list[tuple[int, int, int]]) -> None:
    import csv
    import io

    from lrbench.core.errors import InputError
    from lrbench.core.files import user_path, write_text

    if len(names) > _MOST_COLUMNS:
        raise InputError(
            f"a confusion matrix of {len(names):,} classes has too many columns. Use --predictions FILE and count its rows."
        )
    counts = {(true, other): count for true, other, count in confusions}
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["true class", *names])
    for true, name in enumerate(names):
        writer.writerow([name, *(counts.get((true, other), 0) for other in range(len(names)))])
    write_text(user_path(path), text.getvalue())
    note(f"wrote {path}")


def _as_json(
    stored: "StoredResult",
    names: list[str],
    measures: "ClassMeasures",
    summary: dict[str, float],
    confusions: list[tuple[int, int, int]],
) -> dict[str, Any]:
    return {
        "result": stored.result.model_dump(by_alias=True, mode="json"),
        "summary": summary,
        "classes": [
            {
                "name": name,
                "images": int(measures.images[label]),
                "accuracy": float(measures.accuracy[label]),
                "precision": float(measures.precision[label]),
                "f1": float(measures.f1[label]),
            }
            for label, name in enumerate(names)
        ],
        "confusions": [
            {"true": names[true], "predicted": names[other], "images": count} for true, other, count in confusions
        ],
    }
