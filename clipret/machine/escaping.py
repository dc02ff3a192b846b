"""The one way in which text of files and users is shown to people. This module imports nothing of ours."""

import re

# What a terminal obeys instead of showing it (C0 and C1 controls, DEL), and what reorders or hides the text around.
_HIDDEN = "\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff"
_FORMULAS = ("=", "+", "-", "@", "\t", "\uff1d", "\uff0b", "\uff0d", "\uff20")
_IN_LINES = re.compile(f"[{_HIDDEN}]")
_IN_JSON = re.compile("[\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]")


def visible(text: str) -> str:
    r"""The text with each control character, but line breaks and tabs, written out: `\x1b`, `\u202e`."""
    return text if text.isascii() and text.isprintable() else _IN_LINES.sub(_written_out, text)


def visible_json(text: str) -> str:
    r"""JSON text of equal content that has these characters as escapes, `\u009b`; JSON itself escapes the others."""
    return _IN_JSON.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def _written_out(match: re.Match) -> str:
    code = ord(match[0])
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def csv_cell(value: object) -> object:
    """A cell of a CSV file: text that a spreadsheet would take for a formula has an apostrophe before it.

    Such text begins with `=`, `+`, `-`, `@`, also in full width or behind spaces, or with a tab, and is no number.
    Control characters are written out as well. Source: OWASP, CSV injection.
    """
    if not isinstance(value, str):
        return value
    text = visible(value)
    return f"'{text}" if text.lstrip(" ").startswith(_FORMULAS) and not _is_number(text) else text


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
