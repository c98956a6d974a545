"""Table of one command's results on several tasks, with the mean over the tasks."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from lrbench.cli.common import show, table

if TYPE_CHECKING:
    from lrbench.store.results import StoredResult

# Beyond this number of networks and protocols, a row for each is easier to read than a column.
_MOST_COLUMNS = 4


def show_means(tasks: Sequence[str], results: "Sequence[StoredResult]") -> None:
    """Print the headline metric of each task and the mean over all tasks, for each snapshot and protocol.

    Args:
        tasks: Names of the tasks that were asked for, in order.
        results: Their results; a snapshot without a result on one of the tasks has no mean.
    """
    from lrbench.stats.task_mean import Tested, mean_over_tasks

    of_network: dict[tuple[str, str], dict[str, StoredResult]] = {}
    for stored in results:
        key = (stored.result.snapshot.reference, stored.result.protocol)
        of_network.setdefault(key, {})[stored.result.task.name] = stored
    if not of_network:
        return
    several = len({protocol for _, protocol in of_network}) > 1
    names = {key: f"{key[0]} ({key[1]})" if several else key[0] for key in of_network}
    means = {}
    for key, by_task in of_network.items():
        if all(task in by_task for task in tasks):
            tested = [
                Tested(
                    correct=stored.predictions.label == stored.predictions.prediction,
                    labels=stored.predictions.label,
                    metric=stored.result.task.metric,
                )
                for stored in by_task.values()
            ]
            mean, low, high = mean_over_tasks(tested)
            means[key] = f"{100 * mean:.2f} [{100 * low:.2f}, {100 * high:.2f}]"
        else:
            means[key] = "incomplete"
    label = f"mean of {len(tasks)}"
    scores = {key: {task: _score(by_task.get(task)) for task in tasks} for key, by_task in of_network.items()}
    if len(of_network) <= _MOST_COLUMNS:
        rows = [{"task": task, **{names[key]: scores[key][task] for key in of_network}} for task in tasks]
        rows.append({"task": label, **{names[key]: means[key] for key in of_network}})
        show(table(rows, wrapped="task"))
    else:
        rows = [{"snapshot": names[key], label: means[key], **scores[key]} for key in of_network]
        show(table(rows, wrapped="snapshot", spare=tasks))
    show(
        "Percent, headline metric of each task. The 95 % interval covers the test images of these tasks, not the choice of "
        "tasks or other seeds." + (" *: incomplete data." if any(stored.result.partial for stored in results) else "")
    )


def _score(stored: "StoredResult | None") -> str:
    if stored is None:
        return "failed"
    return f"{100 * stored.result.headline:.2f}{'*' if stored.result.partial else ''}"
