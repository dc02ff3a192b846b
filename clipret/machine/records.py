"""JSON files, parsed strictly: every field that is used later is checked when the file is read.

A form describes what a value must be:

    str, int, float, bool, None   a value of that type; an int is accepted as a float, a bool is not accepted as an int
    tuple                         one of several forms
    {name: form}                  an object with these fields, and possibly others; Maybe(form): optional
    [form]                        a list of values of that form
    Each(form)                    an object with any names, whose values have that form
    AtLeast(low)                  a whole number that is `low` or more
    Any                           any value
"""

import json
import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clipret.machine.files import read_file

_MOST_BYTES = 1 << 28
# A value takes about ten times the memory of its text.
_MOST_VALUES = 10_000_000
_LARGEST = 2**63
_WORDS = {str: "text", int: "a whole number", float: "a number", bool: "true or false", None: "null"}


class RecordError(ValueError):
    """A record does not have the expected form; the message names the field and what is wrong."""


@dataclass(frozen=True)
class Each:
    """An object with any names, whose values have this form."""

    form: Any


@dataclass(frozen=True)
class Maybe:
    """A field that may be missing."""

    form: Any


@dataclass(frozen=True)
class AtLeast:
    """A whole number that is `low` or more."""

    low: int


def record_text(content: Any, *, indent: int | None = None) -> str:
    """JSON for read_record, always valid UTF-8: lone surrogates, as in some paths, become \\u escapes."""
    text = json.dumps(content, indent=indent, ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError:
        return json.dumps(content, indent=indent)
    return text


def read_record(path: Path, form: Any, *, version: int | None = None) -> Any:
    """The content of a JSON file, checked against a form.

    version  the required value of its field `format`, which is checked first; None: there is no such field

    Raises OSError when it cannot be read, and RecordError when it is not JSON or does not have the form.
    """
    return parse_record(read_file(path, most=_MOST_BYTES), form, version=version)


def parse_record(content: bytes | str, form: Any, *, version: int | None = None) -> Any:
    """Like read_record, for content that is already in memory."""
    try:
        text = content.decode("utf-8") if isinstance(content, bytes) else content
    except UnicodeDecodeError as error:
        raise RecordError(f"it is not UTF-8 text: byte {error.start:,} is {content[error.start]:#x}") from None
    if sum(map(text.count, ",[{")) > _MOST_VALUES:
        raise RecordError(f"it has more than {_MOST_VALUES:,} values")
    try:
        value = json.loads(text, object_pairs_hook=_object, parse_constant=_no_number, parse_float=_number)
    except RecursionError:
        raise RecordError("it nests too deep") from None
    except json.JSONDecodeError as error:
        raise RecordError(f"it is not JSON: {error.msg}, line {error.lineno}, column {error.colno}") from None
    except RecordError:
        raise
    except ValueError:
        raise RecordError("it has a number with too many digits") from None
    if version is not None:
        _require_version(value, version=version)
    require_form(value, form)
    return value


def require_form(value: Any, form: Any, *, name: str = "it") -> None:
    """Raise RecordError, which names the field, unless the value has the form; name: what the message calls it."""
    if isinstance(form, tuple):
        _require_one(value, form, name=name)
    elif isinstance(form, dict | Each):
        _require_object(value, form, name=name)
    elif isinstance(form, list):
        if not isinstance(value, list):
            raise _other(value, "a list", name=name)
        for place, entry in enumerate(value):
            require_form(entry, form[0], name=f"{_within(name)}{place}")
    elif isinstance(form, AtLeast):
        require_form(value, int, name=name)
        if value < form.low:
            raise RecordError(f"{name} is {value}; expected {form.low:,} or more")
    elif form is not Any and not _is(value, form):
        raise _other(value, _WORDS[form], name=name)


def _require_one(value: Any, forms: tuple, *, name: str) -> None:
    """Check a value against several forms. The error describes the first form of the value's type."""
    if value is None and None in forms:
        return
    left = [form for form in forms if form is not None]
    fitting = [form for form in left if not isinstance(form, type) or _is(value, form)]
    if not fitting:
        words = [_WORDS[form] for form in forms]
        raise _other(value, f"{', '.join(words[:-1])} or {words[-1]}", name=name)
    require_form(value, fitting[0], name=name)


def _require_object(value: Any, form: dict | Each, *, name: str) -> None:
    if not isinstance(value, dict):
        raise _other(value, "an object", name=name)
    fields = dict.fromkeys(value, form.form) if isinstance(form, Each) else form
    for field, inner in fields.items():
        optional = isinstance(inner, Maybe)
        if field in value:
            require_form(value[field], inner.form if optional else inner, name=f"{_within(name)}{field}")
        elif not optional:
            raise RecordError(f"{name} lacks {field}" if name != "it" else f"it lacks the field {field}")


def _require_version(value: Any, *, version: int) -> None:
    if not isinstance(value, dict):
        raise _other(value, "an object", name="it")
    number = value.get("format")
    if not _is(number, int) or number != version:
        raise RecordError(f"it is of format {_shown(number)}; this clipret reads format {version}")


def _is(value: Any, kind: Any) -> bool:
    if kind is None:
        return value is None
    if isinstance(value, bool) or kind is bool:
        return kind is bool and isinstance(value, bool)
    if isinstance(value, int) and abs(value) >= _LARGEST:
        return False
    return isinstance(value, (int, float) if kind is float else kind)


def _within(name: str) -> str:
    return "" if name == "it" else f"{name}."


def _other(value: Any, expected: str, *, name: str) -> RecordError:
    return RecordError(f"{name} is {_shown(value)}; expected {expected}")


def _shown(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, dict | list):
        return "an object" if isinstance(value, dict) else "a list"
    if isinstance(value, int) and abs(value) >= _LARGEST:
        return "a whole number of over 63 bits"
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _object(pairs: list[tuple[str, Any]]) -> dict:
    content = dict(pairs)
    if len(content) < len(pairs):
        names = [name for name, _ in pairs]
        repeated = next(name for name, count in Counter(names).items() if count > 1)
        raise RecordError(f"its field {_shown(repeated)} is there twice")
    return content


def _number(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise RecordError(f"it has the number {text[:60]}, which is too large")
    return number


def _no_number(word: str) -> float:
    raise RecordError(f"it has {word} where a number is expected")
