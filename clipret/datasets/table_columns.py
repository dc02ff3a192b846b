"""Which columns of a table hold images, captions, splits and ids."""

import re
from collections.abc import Mapping

from clipret.config import COLUMNS, DatasetConfig
from clipret.datasets.table_files import NEEDED, Table, short_names
from clipret.errors import DatasetError

# Our name of a column -> the names it is known by, of which a table has one, where --columns names none.
Usual = Mapping[str, tuple[str, ...]]
# Names that other tools give these columns: suggested when ours are not there, never taken unasked.
_SPELLINGS = {
    "image": ("file_name", "filename", "filepath", "image_path", "path"),
    "caption": ("text", "captions", "sentence", "raw"),
}
# Taken unasked: nothing else is meant by it.
_CAPTION = re.compile(r"captions?[ _-]?(\d{1,4})", re.IGNORECASE)
# The captions of an image in a column each, under any of the names; suggested.
_NUMBERED = re.compile(r"(captions?|text|sentence|raw)[ _-]?\d{1,4}", re.IGNORECASE)


def choose_columns(table: Table, config: DatasetConfig, *, usual: Usual) -> dict[str, tuple[str, ...]]:
    """Our name of each column -> the table's, for those that are read; one of each, of captions perhaps several.

    Raises DatasetError when a column is not there, or there twice.
    """
    asked = asked_columns(config)
    columns, lacks = {}, {}
    for ours, named in config.column_names.items():
        if ours == "split" and config.split == "hash":
            # Whatever it says, nothing is asked of it.
            continue
        wanted = named if ours in asked else usual.get(ours, (ours,))
        here = [name for name in table.columns if name in wanted]
        if len(here) > (len(wanted) if ours in asked else 1):
            twice = "" if len(set(here)) > 1 else " more than once"
            raise DatasetError(
                f"{table.path} has columns {' and '.join(dict.fromkeys(here))}{twice}; expected one for the {ours}: "
                f"name it with --columns {ours}=NAME, or take the other out."
            )
        columns[ours] = wanted if ours in asked else (*here, wanted[0])[:1]
        if ours == "caption" and ours not in asked and not here and (numbered := numbered_captions(table.columns)):
            columns[ours] = here = numbered
        if ours in asked or ours in NEEDED:
            missing = [name for name in columns[ours] if name not in here]
            lacks |= {ours: missing} if missing else {}
    if lacks:
        raise _lacking(table, lacks, named={ours: columns[ours] for ours in COLUMNS if ours in asked & set(columns)})
    return columns


def numbered_captions(columns: list[str]) -> tuple[str, ...]:
    """`caption_0`, `caption_1` ... in the order of their numbers, where a table has several such columns and no gap."""
    numbers = {int(match[1]): name for name in columns if (match := _CAPTION.fullmatch(name))}
    ordered = sorted(numbers)
    whole = len(ordered) > 1 and ordered == list(range(ordered[0], ordered[0] + len(ordered))) and ordered[0] in (0, 1)
    return tuple(numbers[number] for number in ordered) if whole else ()


def asked_columns(config: DatasetConfig) -> set[str]:
    """Our names of the columns that --columns names."""
    return {pair.partition("=")[0].strip() for pair in config.columns.split(",")} & set(COLUMNS)


def _lacking(table: Table, lacks: dict[str, list[str]], *, named: dict[str, tuple[str, ...]]) -> DatasetError:
    """The error on columns that are not there: our name -> theirs; and those that --columns names rightly."""
    names = [name for missing in lacks.values() for name in missing]
    what = f"column{'s' * (len(names) > 1)} " + " and ".join(f"`{name}`" for name in names)
    named = named | {ours: _spellings(ours, table.columns) for ours in lacks}
    option = ",".join(f"{ours}={name}" for ours in COLUMNS for name in named.get(ours, ()))
    other = table.separators and (
        f"; or, as its cells are taken to be separated by {table.separators}, put a line such as sep=; before the first"
    )
    return DatasetError(
        f"{table.path} has no {what}; its columns are: {short_names(table.columns)}. "
        f"Say which they are with --columns {option}{other}"
    )


def _spellings(ours: str, columns: list[str]) -> tuple[str, ...]:
    """The column that is ours under another usual name, those that are numbered where it is captions, or NAME."""
    spellings = (ours, *_SPELLINGS.get(ours, ()))
    matches = sorted((spellings.index(name.lower()), name) for name in columns if name.lower() in spellings)
    if matches:
        return (matches[0][1],)
    numbered = tuple(name for name in columns if _NUMBERED.fullmatch(name)) if ours == "caption" else ()
    return numbered or ("NAME",)
