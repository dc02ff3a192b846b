"""Escaping of text from files and users before it is shown. This module imports nothing of clipret."""

import re

# Control characters that a terminal executes (C0, C1, DEL), and characters that reorder or hide the text around them.
_HIDDEN = "\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff"
_FORMULAS = ("=", "+", "-", "@", "\uff1d", "\uff0b", "\uff0d", "\uff20")
_MARKDOWN = str.maketrans({sign: f"\\{sign}" for sign in "\\|*_<>`[$~&#"})
# Of a path: everything before its last part, where it begins at the root, at a drive, at a home or above the folder.
# What follows `://` is an address.
_FOLDERS = re.compile(
    r"""(?:^|(?<=[\s:=,+'"(]))(?!(?<=:)//)(?:~[^\s/\\:=,+'"]*|[A-Za-z]:|\.\.)?[/\\](?:[^/\\:=,+'"]*[/\\])*"""
)
_IN_LINES = re.compile(f"[{_HIDDEN}]")
_IN_JSON = re.compile("[\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]")


def visible(text: str) -> str:
    r"""The text with control characters, except line breaks and tabs, escaped: `\x1b`, `\u202e`."""
    return text if text.isascii() and text.isprintable() else _IN_LINES.sub(_written_out, text)


def visible_json(text: str) -> str:
    r"""The JSON text with those control characters escaped that JSON allows unescaped: `\u009b`."""
    return _IN_JSON.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def _written_out(match: re.Match) -> str:
    code = ord(match[0])
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def markdown_text(text: str) -> str:
    """The text in one line of Markdown, as it reads: nothing in it is markup, and control characters are escaped."""
    return visible(text.replace("\n", " ")).translate(_MARKDOWN)


def without_folders(text: str) -> str:
    """The text without the folders of absolute paths, of homes and of `..`: their last parts alone.

    For what leaves this machine: `--cache /home/me/data/emoji.h5` becomes `--cache emoji.h5`. Relative paths stay.
    """
    return _FOLDERS.sub("", text)


def csv_cell(value: object) -> object:
    """A cell of a CSV file: text that a spreadsheet would run as a formula gets a leading apostrophe.

    Such text begins with `=`, `+`, `-`, `@`, also in full width or after white space of any kind, or with a tab or a
    line break, and is not a number.
    Control characters are written out as well. Source: OWASP, CSV injection.
    """
    if not isinstance(value, str):
        return value
    text = visible(value)
    risky = text.startswith(("\t", "\n")) or text.lstrip().startswith(_FORMULAS)
    return f"'{text}" if risky and not _is_number(text) else text


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
