"""The command line: typer commands over the stages. The only place that prints, prompts or exits."""

import sys
from typing import Annotated

import typer

from clipret import __version__
from clipret.cli import (
    caches,
    comparison,
    data,
    evaluation,
    exports,
    failures,
    faults,
    models,
    reports,
    reproduction,
    service,
    sweeps,
    training,
    trust,
)
from clipret.cli.running import complain
from clipret.errors import ClipretError

# Typer keeps click's error classes under names that moved between its versions; BadParameter's bases did not.
_UsageFault = typer.BadParameter.__mro__[2]

app = typer.Typer(pretty_exceptions_enable=False, rich_markup_mode="rich")
for command in (data.download, data.check, models.models, data.extract):
    app.command()(command)
app.command("import")(caches.import_features)
for command in (
    caches.info,
    caches.verify,
    reports.look,
    caches.merge,
    training.train,
    sweeps.sweep,
):
    app.command()(command)
app.command("eval")(evaluation.evaluate)
for command in (
    comparison.compare,
    failures.failures,
    reports.report,
    reproduction.reproduce,
    service.search,
    service.serve,
    exports.embed,
    exports.export,
    trust.trust,
):
    app.command()(command)
# The old name, for one release.
app.command("errors", hidden=True)(failures.errors)


@app.callback(invoke_without_command=True)
def _root(version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False):
    """Cross-modal retrieval with frozen CLIP: run CLIP once, then train and evaluate on its cached features.

    \b
    clipret extract --dataset emoji --model tiny-emoji
    clipret train --cache data/emoji.h5
    clipret eval
    """
    if version:
        typer.echo(__version__)
        raise typer.Exit


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return the exit status: 0, 1 for an error, 2 for bad usage, 70 for a
    bug of ours, 130 after Ctrl-C."""
    arguments = sys.argv[1:] if arguments is None else arguments
    faults.open_closed_streams()
    for stream in (sys.stdout, sys.stderr):
        # What a terminal's encoding does not have is no reason to lose a result.
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    try:
        status = app(arguments or ["--help"], standalone_mode=False) or 0
        sys.stdout.flush()
    except ClipretError as error:
        complain(str(error))
        return error.exit_code
    except _UsageFault as fault:
        complain(f"{fault.format_message()} ({_help_of(fault)} tells more)")
        return 2
    except (typer.Abort, KeyboardInterrupt):
        complain("interrupted")
        return 130
    except Exception as error:
        return _unexpected(error, arguments)
    return status


def _help_of(fault: Exception) -> str:
    """The command that shows the help of the command that was given wrongly."""
    context = getattr(fault, "ctx", None)
    inner = context is not None and context.parent is not None
    return f"clipret {context.info_name} --help" if inner else "clipret --help"


def _unexpected(error: Exception, arguments: list[str]) -> int:
    """Say in one line what no stage has said; return the exit status: 1 for the system's refusals, 70 for a bug."""
    if isinstance(error, BrokenPipeError):
        # Whoever read the output has enough of it.
        faults.silence(sys.stdout)
        return 141
    if isinstance(error, OSError):
        message, status = faults.explain_system_error(error)
    elif faults.is_out_of_memory(error):
        message, status = faults.explain_memory_error(error), 1
    else:
        message, status = faults.report_bug(error, arguments=list(map(str, arguments))), faults.BUG
    complain(message)
    try:
        sys.stdout.flush()
    except OSError:
        faults.silence(sys.stdout)
    return status
