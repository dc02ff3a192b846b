"""What every command does with a stage: run it with progress, show its result, say what went wrong."""

import contextlib
import json
import sys
from collections.abc import Callable

import typer
from rich.console import Console

from clipret.cli.interrupts import Interrupts
from clipret.cli.progress_bars import ProgressDisplay
from clipret.machine.escaping import visible, visible_json
from clipret.reporting import FORMS
from clipret.reporting.sheets import Sheet

# Called when all is loaded and the work begins. The process of a command has some; who calls main has their own ways.
before_work: list[Callable[[], None]] = []
# Of an error, in letters.
_LONGEST = 1600


def run(stage: Callable, config, *, quiet: bool, on_interrupt: str | Callable[[], str], batches: bool = True) -> dict:
    """What the stage returns; after Ctrl-C, exit status 130 and how to go on, and after SIGTERM 143.

    The first signal lets a stage finish its batch, the second does not. A stage that finishes altogether is done.

    on_interrupt  how to go on, or what tells it when it comes to that
    batches       whether the stage works in batches, so that there is something to finish
    """

    def farewell(word: str) -> None:
        complain(f"{word}; {on_interrupt() if callable(on_interrupt) else on_interrupt}")

    console = Console(stderr=True)
    interrupts = Interrupts(console, farewell=farewell, patient=batches)
    try:
        with (
            ProgressDisplay(console, quiet=quiet) as display,
            interrupts.handled(display) as on_progress,
            results_only(),
        ):
            for prepare in before_work:
                prepare()
            return stage(config, on_progress=on_progress)
    except KeyboardInterrupt:
        pass
    except Exception:
        # Of a stage that is stopped anywhere, the parts may complain of each other.
        if not interrupts.at_once:
            raise
    farewell(interrupts.word)
    raise typer.Exit(interrupts.status)


def results_only() -> contextlib.AbstractContextManager:
    """Inside, what is printed goes to standard error: a loss or a head of the user's own may print, results go last."""
    return contextlib.redirect_stdout(sys.stderr)


def show(result: dict, *, as_json: bool, text: str | None = None, sheets: tuple[Sheet, ...] = ()) -> None:
    """Print the result as JSON, or the sheets and the text."""
    if as_json:
        utf8 = (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
        typer.echo(visible_json(json.dumps(result, indent=2, ensure_ascii=not utf8)))
        return
    console = Console()
    # Wide enough for the tables where there is no terminal to ask.
    console = console if console.is_terminal else Console(width=100)
    if sheets:
        console.print(FORMS["terminal"](sheets))
    if text:
        typer.echo(visible(text))


def complain(message: str) -> None:
    """Print an error, in the one form that errors have: a line, whatever lines the text that it names has."""
    # As many lines as fit a terminal; the end says what to do.
    if len(message) > _LONGEST:
        message = f"{message[: _LONGEST // 2]} [...] {message[-_LONGEST // 2 :]}"
    typer.echo(visible(f"error: {message}".replace("\r", "\\r").replace("\n", "\\n")), err=True)
