"""The command that compares heads: compare."""

import json
import shlex
from pathlib import Path
from typing import Annotated

import typer

from clipret.cli import options
from clipret.cli.running import config_from, run, show
from clipret.config import PROTOCOLS
from clipret.config.comparison import FORMATS, CompareConfig
from clipret.machine.escaping import visible_json
from clipret.machine.files import replaced
from clipret.reporting import FORMS, SECTIONS
from clipret.runs import written


def compare(
    runs: Annotated[
        list[str],
        typer.Argument(
            help="Folders of runs, files that eval wrote, and the word zero-shot; RUN@0.5 is its head of wise-ft 0.5.",
            metavar="RUN RUN ...",
        ),
    ],
    metrics: Annotated[
        str, typer.Option(help="What is shown and tested: R@1, mAP@10, R (at every K), median_rank, rsum ...")
    ] = ",".join(CompareConfig.metrics),
    k: options.K = options.DEFAULT_K,
    protocol: Annotated[
        str | None, typer.Option(help=f"One of {', '.join(PROTOCOLS)}.", show_default="the first that all have")
    ] = CompareConfig.protocol,
    level: Annotated[float, typer.Option(help="Level of the intervals.")] = CompareConfig.level,
    alpha: Annotated[
        float, typer.Option(help="Chance, at most, that any difference is shown where there is none.")
    ] = CompareConfig.alpha,
    permutations: Annotated[
        int, typer.Option(help="Sign flips that p-values and intervals of differences are made from, at least.")
    ] = CompareConfig.permutations,
    out: Annotated[
        Path | None,
        typer.Option(help="Where to write the result: .md, .tex, .csv, .html or .json.", show_default="nowhere"),
    ] = CompareConfig.out,
    format: Annotated[
        str | None, typer.Option(help=f"{', '.join(FORMATS)}.", show_default="by --out, or table")
    ] = CompareConfig.format,
    seed: options.seed("Decides which signs are flipped.") = CompareConfig.seed,
    quiet: options.Quiet = False,
    as_json: options.Json = False,
):
    """Stage 2: which of several heads is better, with intervals and a paired test of every difference.

    Runs that differ in nothing but their seed are taken together.

    \b
    clipret compare runs/0001-margin-linear zero-shot
    clipret compare runs/0001-margin-linear runs/0002-infonce-linear zero-shot --out table.tex
    clipret sweep --cache data/emoji.h5 --loss margin,infonce --test-all
    clipret compare runs/sweep-0001/*-*
    """
    given = {**locals(), "metrics": options.words(metrics), "k": options.whole_numbers(k)}
    config = config_from(CompareConfig, given)
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
