"""The command line: one file a verb, heavy imports inside the verb, so that `lrbench --help` answers at once."""

import os
import sys
import traceback

import typer

from lrbench.cli import data, doctor, leaderboard, plan, pretrain, recommend, run, snapshots, suites, tasks, transfer
from lrbench.cli.common import one_paragraph
from lrbench.cli.usage import explain_usage
from lrbench.errors import LrbenchError

app = typer.Typer(
    name="lrbench",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Does learning-rate decay make features less transferable? Pretrain with a snapshot at every decay boundary, "
    "transfer every snapshot, and see what the results say.",
    epilog="Every command takes --debug, which shows a traceback in place of an error's one paragraph.",
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("run", short_help="Everything: pretraining, transfers, leaderboard.")(run.run)
app.command("pretrain", short_help="Pretrain with a snapshot at every boundary.")(pretrain.pretrain)
app.command("transfer", short_help="Transfer one snapshot to one task.")(transfer.transfer)
app.command("recommend", short_help="Which snapshot to transfer to your data.")(recommend.recommend)
app.command("leaderboard", short_help="Write tables and figures from the results.")(leaderboard.leaderboard)
app.command("tasks")(tasks.tasks)
app.command("suites", short_help="List the suites, or show one in full.")(suites.suites)
app.add_typer(data.app, name="data")
app.add_typer(snapshots.app, name="snapshots")
app.command("plan", short_help="What a suite is made of and what is done.")(plan.plan)
app.command("doctor", short_help="This machine, and what would run on it.")(doctor.doctor)


@app.callback(invoke_without_command=True)
def _version(version: bool = typer.Option(False, "--version", help="Print the version and stop.")) -> None:
    if version:
        from lrbench import __version__

        typer.echo(f"lrbench {__version__}")
        raise typer.Exit


def main() -> None:
    """Run the command line; an error of lrbench ends as one paragraph on stderr and its exit status."""
    debug = "--debug" in sys.argv or bool(os.environ.get("LRBENCH_DEBUG"))
    if debug:
        # Worker processes ask the environment.
        os.environ["LRBENCH_DEBUG"] = "1"
    sys.argv = [argument for argument in sys.argv if argument != "--debug"]
    try:
        # By itself the parser would print its errors in a form of its own, and end the process.
        status = app(prog_name="lrbench", standalone_mode=False)
        if status == 130:
            raise KeyboardInterrupt
        sys.exit(status if isinstance(status, int) else 0)
    except LrbenchError as error:
        if debug:
            traceback.print_exc()
        elif not error.silent:
            typer.echo(one_paragraph("lrbench", str(error)), err=True)
        sys.exit(error.exit_status)
    except (KeyboardInterrupt, typer.Abort):
        if debug:
            raise
        typer.echo("lrbench: interrupted. Run the same command again to go on.", err=True)
        sys.exit(130)
    except Exception as error:
        if hasattr(error, "format_message"):
            # Of the parser, which brings its own or Click's; a command without its words prints its help in this way.
            if type(error).__name__ == "NoArgsIsHelpError":
                typer.echo(error.format_message(), err=True)
            else:
                typer.echo(one_paragraph("lrbench", explain_usage(error)), err=True)
            sys.exit(2)
        if debug:
            raise
        if isinstance(error, BrokenPipeError):
            _reader_has_gone()
        if isinstance(error, PermissionError) and error.filename is not None:
            # Where files are written, it is said there; these are files of the user's that are read.
            denied = f"{error.filename} cannot be read: permission denied. Change its permissions."
            typer.echo(one_paragraph("lrbench", denied), err=True)
            sys.exit(2)
        message = (
            f"an error that lrbench did not foresee: {type(error).__name__}: {error}. Everything saved so far is kept. Run "
            "the same command with --debug to see where it happened; please report it."
        )
        typer.echo(one_paragraph("lrbench", message), err=True)
        sys.exit(1)


def _reader_has_gone() -> None:
    """The reader of our output (`lrbench tasks | head`) has gone; that is not an error of ours."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(0)
