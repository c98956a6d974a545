"""The commands, and the exit status of their errors."""

import os
import sys
from typing import NoReturn

import typer

from lrbench.cli import (
    INTERRUPTED,
    data,
    doctor,
    features,
    leaderboard,
    plan,
    power,
    pretrain,
    recommend,
    register,
    results,
    run,
    snapshots,
    study,
    suites,
    tasks,
    transfer,
)
from lrbench.cli.common import complain, one_paragraph, show
from lrbench.cli.usage import Commands, explain_usage
from lrbench.core.errors import LrbenchError, as_user_error, print_traceback

app = Commands(
    name="lrbench",
    help="Measure whether learning-rate decay makes features less transferable: pretrain with a snapshot at every decay "
    "boundary, transfer every snapshot, and compare the results.",
    epilog="Every command accepts --debug, which prints the traceback of an error, and --quiet, which hides progress and notes "
    "but no warnings.",
    add_completion=True,
)
app.command("run", short_help="Pretrain a suite, transfer its snapshots, write the leaderboard.")(run.run)
app.command("pretrain", short_help="Pretrain a suite, with a snapshot at every boundary.")(pretrain.pretrain)
app.command("transfer", short_help="Transfer snapshots to tasks.")(transfer.transfer)
app.command("recommend", short_help="Find the best snapshot for a task.")(recommend.recommend)
app.command("features", short_help="Write the features of a task's images to a file.")(features.features)
app.command("leaderboard", short_help="Write tables and figures from the results.")(leaderboard.leaderboard)
app.add_typer(tasks.app, name="tasks")
app.command("suites", short_help="List the suites, or show one in full.")(suites.suites)
app.add_typer(data.app, name="data")
app.add_typer(snapshots.app, name="snapshots")
app.add_typer(results.app, name="results")
app.command("study", short_help="Run a study of the paper's claims, or list all studies.")(study.study)
app.command("power", short_help="Seeds and test images that an effect needs.")(power.power)
app.command("register", short_help="Register a suite before its first result.")(register.register)
app.command("plan", short_help="Show what a suite computes, and what is done.")(plan.plan)
app.command("doctor", short_help="Show this machine, and which suites can run on it.")(doctor.doctor)


@app.callback(invoke_without_command=True)
def _version(version: bool = typer.Option(False, "--version", help="Print the version and stop.")) -> None:
    if version:
        from lrbench import __version__

        show(f"lrbench {__version__}")
        raise typer.Exit


def dispatch() -> NoReturn:
    """Run the command that `sys.argv` names, and end with its exit status."""
    for option, variable in (("--debug", "LRBENCH_DEBUG"), ("--quiet", "LRBENCH_QUIET")):
        if option in sys.argv:
            # Worker processes read the environment.
            os.environ[variable] = "1"
    sys.argv = [argument for argument in sys.argv if argument not in ("--debug", "--quiet")]
    try:
        # In standalone mode the parser would print its errors in a different form, and end the process.
        status = app(prog_name="lrbench", standalone_mode=False)
        if status == 130:
            raise KeyboardInterrupt
    except BaseException as error:
        status = _exit_status(error)
    sys.exit(status if isinstance(status, int) else 0)


def _exit_status(error: BaseException) -> int:
    """Print the error that ended a command, and return its exit status."""
    debug = bool(os.environ.get("LRBENCH_DEBUG"))
    if isinstance(error, SystemExit):
        raise error
    if isinstance(error, typer.Abort) or _interrupted(error):
        if debug:
            print_traceback(error)
        complain(f"lrbench: {INTERRUPTED}")
        return 130
    if isinstance(error, LrbenchError):
        if debug:
            print_traceback(error)
        elif not error.silent:
            complain(one_paragraph("lrbench", str(error)))
        return error.exit_status
    if not isinstance(error, Exception):
        raise error
    if hasattr(error, "format_message"):
        # The option parser's exceptions, which come from typer or from Click.
        if type(error).__name__ == "NoArgsIsHelpError":
            complain(error.format_message())
        else:
            complain(one_paragraph("lrbench", explain_usage(error)))
        return 2
    shown = as_user_error(error)
    complain(one_paragraph("lrbench", str(shown)))
    return shown.exit_status


def _interrupted(error: BaseException | None) -> bool:
    """Return whether Ctrl-C caused an error: a library being imported may replace it by its own exception."""
    while error is not None:
        if isinstance(error, KeyboardInterrupt):
            return True
        error = error.__cause__ or error.__context__
    return False
