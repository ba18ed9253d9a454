"""The `regatta` command: verbs, and the one place where an error becomes an exit code."""

from __future__ import annotations

import signal
import sys

import typer

from regatta.cli import (
    check,
    compare,
    data,
    demo,
    doctor,
    evaluate,
    export,
    init,
    ls,
    profile,
    report,
    run,
    status,
    stop,
    train,
    watch,
)
from regatta.core.errors import RegattaError

app = typer.Typer(
    name="regatta",
    help="Race models: same data, same budget, same judges.",
    epilog="Exit codes: 0 good, 1 some runs failed, 2 usage or data, 3 environment, 130/143 stop.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for verb in (
    run,
    train,
    evaluate,
    compare,
    report,
    profile,
    export,
    status,
    watch,
    stop,
    init,
    check,
    ls,
    doctor,
    demo,
):
    name = verb.__name__.rpartition(".")[2]
    app.command(name)(getattr(verb, name))
app.add_typer(data.app, name="data")


@app.callback(invoke_without_command=True)
def _top(
    context: typer.Context,
    version: bool = typer.Option(False, "--version", help="Print the version and leave."),
) -> None:
    if version:
        from regatta import __version__

        typer.echo(f"regatta {__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


def main() -> None:
    """Run the command line; errors of ours go to stderr as what, where, next step."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        app()
    except RegattaError as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(error.exit_code)
    except BrokenPipeError:
        # `regatta ls | head` closes our output early: that is no failure of ours.
        sys.stderr.close()
        sys.exit(0)


if __name__ == "__main__":
    main()
