"""What `run` and `pretrain` share: the work on a suite's jobs."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from lrbench.engines.jobs import Job
    from lrbench.registry import Suite
    from lrbench.workspace import Place

WorkersOption = Annotated[
    int | None,
    typer.Option(
        "--workers", metavar="N", min=1, help="Processes to work in. [default: one on a GPU, else one a core]"
    ),
]


def do_jobs(jobs: Sequence["Job"], suite: "Suite", place: "Place", *, workers: int | None) -> None:
    """Run jobs with progress on stderr; Ctrl-C and SIGTERM stop them at the next step, saved."""
    from lrbench.cli.progress import Display
    from lrbench.control import Control, stopping_on_signals
    from lrbench.engines.local import run_jobs

    control = Control()
    with stopping_on_signals(control), Display(len(jobs)) as display:
        run_jobs(jobs, suite, place, control, display, workers=workers)
