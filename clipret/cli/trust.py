"""The command that allows a run's own code to be run, where the run came from somebody else."""

from pathlib import Path
from typing import Annotated

import typer

from clipret.cli import options
from clipret.cli.running import show


def trust(
    files: Annotated[list[Path], typer.Argument(help="Python files: those of a run that came from somebody else.")],
    as_json: options.Json = False,
):
    """Allow a Python file to be run: the loss or the head of a run that was not trained here.

    Naming a file with --loss or --head allows it too. Read it first: it can do all that you can. What is allowed is the
    file as it is now; once it changes, it is asked for again.

    \b
    clipret trust runs/0001-soft_margin-MLP/own_head.py
    """
    from clipret.machine import own_code

    allowed = {str(file): own_code.trust(file) for file in files}
    lines = [f"{file}, sha256 {sha256[:12]}, may be run." for file, sha256 in allowed.items()]
    show(allowed, as_json=as_json, text="\n".join(lines))
