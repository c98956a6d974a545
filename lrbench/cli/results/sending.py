"""`lrbench results push` and `submit`: send results to a folder, a zip file or the Hub."""

from typing import TYPE_CHECKING, Annotated

import typer

from lrbench.cli.common import note, show, some, warn
from lrbench.core.wording import counted

if TYPE_CHECKING:
    from lrbench.sharing.outgoing import Outgoing

_PLACE = "A new folder, a new .zip file, or hf://datasets/USER/NAME, a data set of the Hugging Face Hub."
Destination = Annotated[str, typer.Argument(metavar="DEST", help=_PLACE)]
TaskOption = Annotated[
    list[str] | None,
    typer.Option(
        "--task",
        metavar="TASK",
        help="Task of your own whose results are sent, with the names of its images. Repeatable. [default: only tasks that "
        "lrbench ships]",
    ),
]


def push(
    destination: Destination,
    suites: Annotated[
        list[str] | None,
        typer.Option("--suite", metavar="SUITE", help="Suite to send, or foreign. Repeatable. [default: all]"),
    ] = None,
    tasks: TaskOption = None,
    public: Annotated[bool, typer.Option("--public", help="Make a new data set public. [default: private]")] = False,
) -> None:
    """Send results, with predictions, suites and registrations, to a folder, a zip file or the Hub.

    On the Hub, a suite's earlier results are replaced. `hf auth login` logs in.
    """
    from lrbench.core.workspace import Workspace
    from lrbench.sharing.outgoing import own_tasks_hint, select_results, send
    from lrbench.sharing.places import parse_place

    place = parse_place(destination)
    outgoing = select_results(Workspace.for_writing(), suites or (), tasks or ())
    _describe(outgoing)
    if hint := own_tasks_hint(outgoing.left_out):
        note(hint)
    show(send(outgoing, place, public=public))


def submit(
    destination: Destination,
    suites: Annotated[
        list[str], typer.Option("--suite", metavar="SUITE", help="Suite to submit, or foreign. Repeatable.")
    ],
) -> None:
    """Send whole suites to a data set of others as a pull request, or write the folder or zip file to send them.

    Only complete suites on complete data that lrbench ships are sent. Results on your own tasks are left out.
    """
    from lrbench.core.workspace import Workspace
    from lrbench.sharing.outgoing import refuse_unfit, select_results, send, unregistered
    from lrbench.sharing.places import parse_place

    place = parse_place(destination)
    outgoing = select_results(Workspace.for_writing(), suites, ())
    refuse_unfit(outgoing)
    for name in unregistered(outgoing):
        warn(f"{name} is not registered, so its results are exploratory.")
    _describe(outgoing)
    show(send(outgoing, place, pull_request=True))


def _describe(outgoing: "Outgoing") -> None:
    for name, cells in outgoing.cells.items():
        note(f"{name}: {counted(len(cells), 'result')}")
    for reason, count in outgoing.left_out.items():
        note(f"left out {counted(count, 'result')} {reason}")
    if outgoing.paths:
        note(f"the results name files of this machine: {some(outgoing.paths)}")
    for problem in outgoing.problems:
        warn(problem)
