import typer

app = typer.Typer(no_args_is_help=True, help="")


@app.command("x")
def x() -> None: ...
