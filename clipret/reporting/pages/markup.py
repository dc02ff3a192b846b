"""HTML from text that may mean harm."""

from html import escape

from clipret.machine.escaping import visible

_LONGEST = 600


def text(value: object) -> str:
    """A text as it reads, escaped for HTML and attributes; control characters are written out, and long texts cut."""
    shown = " ".join(str(value).split())
    shown = shown if len(shown) <= _LONGEST else f"{shown[: _LONGEST - 1]}…"
    return escape(visible(shown), quote=True)


def element(name: str, *content: str, kind: str = "") -> str:
    """An element of markup that is HTML already; kind: its class."""
    return f"<{name}{f' class={chr(34)}{kind}{chr(34)}' if kind else ''}>{''.join(content)}</{name}>"


def scrolling(*tables: str) -> str:
    """Tables that are wider than a phone, which scroll by touch and by keyboard."""
    return f'<div class="scroll" tabindex="0">{"".join(tables)}</div>'


def figure(drawing: str, caption: str) -> str:
    """A drawing with what it shows."""
    return element("figure", drawing, element("figcaption", text(caption)))
