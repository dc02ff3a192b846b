"""Options that several commands have."""

from pathlib import Path
from typing import Annotated

import typer

from clipret.config import EvalConfig
from clipret.datasets import DATASETS_HELP, SPLITS_HELP
from clipret.errors import UsageError

Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress, no remarks: the result and errors only.")]
Json = Annotated[
    bool, typer.Option("--json", help="Print the result as JSON on standard output, and nothing else there.")
]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda; auto takes CUDA where there is one.")]
K = Annotated[str, typer.Option("--k", help="The K of R@K and of every other metric that has one; commas between.")]
DEFAULT_K = ",".join(map(str, EvalConfig.k))
RunsDir = Annotated[Path, typer.Option(help="Folder that holds the runs.")]

_DATA = "Data set"
Dataset = Annotated[
    str,
    typer.Option(help=DATASETS_HELP, rich_help_panel=_DATA),
]
Root = Annotated[
    Path | None, typer.Option(help="Where the data set's files are.", show_default="its own", rich_help_panel=_DATA)
]
SplitRule = Annotated[
    str | None,
    typer.Option(
        help=SPLITS_HELP,
        show_default="the first that the data set has",
        rich_help_panel=_DATA,
    ),
]
ValFraction = Annotated[
    float, typer.Option(help="Share of COCO's training images that become val.", rich_help_panel=_DATA)
]
Restval = Annotated[bool, typer.Option(help="Whether Karpathy's restval joins train.", rich_help_panel=_DATA)]
CaptionsPerImage = Annotated[
    int | None,
    typer.Option(help="Keep the first K captions of an image.", show_default="all", rich_help_panel=_DATA),
]
CaptionClean = Annotated[
    str, typer.Option(help="Captions before the prompt: none, lower or strip-punctuation.", rich_help_panel=_DATA)
]
Prompt = Annotated[str, typer.Option(help="Text around every caption; {} is the caption.", rich_help_panel=_DATA)]
Columns = Annotated[
    str,
    typer.Option(
        help="Columns of your own table, such as image=file,caption=text; several of captions: caption=a,caption=b.",
        show_default="image, caption, split, id",
        rich_help_panel=_DATA,
    ),
]
SkipMissing = Annotated[
    bool, typer.Option("--skip-missing", help="Go on without the images that are not there.", rich_help_panel=_DATA)
]


def seed(does: str):
    """The option --seed, with what it decides."""
    return Annotated[int, typer.Option(help=does)]


def whole_numbers(text: str) -> tuple[int, ...]:
    """What --k says. Raises UsageError."""
    try:
        return tuple(int(word) for word in text.split(","))
    except ValueError:
        raise UsageError(f"--k is '{text}'; expected whole numbers separated by commas, such as 1,5,10.") from None


def words(text: str | None) -> tuple[str, ...]:
    """What is between the commas; nothing where the option was not given."""
    return tuple(word.strip() for word in (text or "").split(",") if word.strip())


def chosen(context: typer.Context) -> set[str]:
    """Names of a command's parameters that were given on the command line."""
    return {name for name in context.params if context.get_parameter_source(name).name == "COMMANDLINE"}


def refuse_beside_resume(context: typer.Context, what: str) -> None:
    """Raise UsageError when, beside --resume, there are options that what is gone on with has already."""
    given = chosen(context) - {"resume", "quiet", "as_json"}
    words = sorted(option for part in context.command.params if part.name in given for option in part.opts[:1])
    if words:
        raise UsageError(f"--resume goes on with the settings that the {what} has; leave out {', '.join(words)}.")
