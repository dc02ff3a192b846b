"""The command that compares heads: compare."""

import json
import shlex
from pathlib import Path

import typer

from clipret.cli import options
from clipret.cli.running import run, show
from clipret.config.comparison import CompareConfig
from clipret.machine.escaping import visible_json
from clipret.machine.files import replaced
from clipret.reporting import FORMS, SECTIONS
from clipret.runs import written


@options.from_settings(CompareConfig)
def compare(values: dict, *, quiet: options.Quiet = False, as_json: options.Json = False):
    """Stage 2: which of several heads is better, with intervals and a paired test of every difference.

    Runs that differ in nothing but their seed are taken together.

    \b
    clipret compare runs/0001-margin-linear zero-shot
    clipret compare runs/0001-margin-linear runs/0002-infonce-linear zero-shot --out table.tex
    clipret sweep --cache data/emoji.h5 --loss margin,infonce --test-all
    clipret compare runs/sweep-0001/*-*
    """
    config = CompareConfig(**values)
    from clipret.evaluation.comparison.stage import compare as stage

    result = run(stage, config, quiet=quiet or as_json, on_interrupt="nothing was written")
    if config.out:
        _write(config.out, _text(result, form=config.format))
    if as_json or config.format == "table" or config.out:
        written = f"written to {shlex.quote(str(config.out))}" if config.out and not quiet else None
        show(result, as_json=as_json, sheets=SECTIONS["compare"](result, short=True), text=written)
    else:
        typer.echo(_text(result, form=config.format), nl=False)


def _text(result: dict, *, form: str) -> str:
    """The result in a form that a file can have. JSON and CSV are for programs: all figures, as they are."""
    if form == "json":
        return visible_json(json.dumps(result, indent=2, ensure_ascii=False)) + "\n"
    return FORMS[form](SECTIONS["compare-records" if form == "csv" else "compare"](result))


def _write(out: Path, text: str) -> None:
    """Atomically: a reader sees the old file or the whole new one."""
    with written(out), replaced(out) as unfinished:
        unfinished.write_text(text, encoding="utf-8")
