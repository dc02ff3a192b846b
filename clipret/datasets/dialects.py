"""How a CSV file is written: what separates its cells, its encoding, and Excel's line that says the separator."""

import codecs
import re
from dataclasses import dataclass
from pathlib import Path

from clipret.errors import DatasetError
from clipret.machine.files import require_file

DELIMITERS = {",": "commas", "\t": "tabs", ";": "semicolons"}
UTF_8, UTF_16 = "utf-8-sig", "utf-16"
_EXCEL = re.compile(r'"?sep=(?P<delimiter>[,;\t])"?')
# Of a file, to find its first line in.
_BEGINNING = 1 << 16


@dataclass(frozen=True)
class Dialect:
    """Of one file.

    delimiter  of DELIMITERS
    encoding   for Python's open: UTF-8, or UTF-16 where the file begins with its byte order mark
    skipped    lines before the header
    remarks    what is not as the file's ending says, in words
    """

    delimiter: str
    encoding: str = UTF_8
    skipped: int = 0
    remarks: tuple[str, ...] = ()


def read_dialect(path: Path, *, usual: str) -> Dialect:
    """The dialect of the CSV file at `path`, as far as its beginning makes it certain.

    usual  the delimiter that its ending stands for. Another is taken only where the header has none of these and one
           kind of others: a table has two columns at least

    Raises DatasetError when the file cannot be read.
    """
    try:
        require_file(path)
        with path.open("rb") as file:
            beginning = file.read(_BEGINNING)
    except OSError as error:
        raise DatasetError(f"{path} cannot be read: {error.strerror}.") from None
    encoding = UTF_16 if beginning.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else UTF_8
    lines = beginning.decode(encoding, errors="ignore").splitlines() or [""]
    if match := _EXCEL.fullmatch(lines[0].strip(" ")):
        return Dialect(match["delimiter"], encoding, skipped=1)
    header = next((line for line in lines if line.strip()), "")
    others = [sign for sign in DELIMITERS if sign != usual and sign in header]
    if usual in header or len(others) != 1:
        return Dialect(usual, encoding)
    remark = f"the cells of {path.name} are separated by {DELIMITERS[others[0]]}, not by {DELIMITERS[usual]}"
    return Dialect(others[0], encoding, remarks=(remark,))
