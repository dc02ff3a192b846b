"""For the site's API page: what docstrings explain in columns, as `name   what it is`, becomes a list."""

import re

try:
    from griffe import Extension
except ImportError:
    # Where the site is not built, with_lists is all that is needed.
    Extension = object

# A name (or several, with commas), two spaces or more, and its explanation.
ENTRY = re.compile(r"(?P<indent> *)(?P<name>[\w.*@\"\[\]-]+(?:, [\w.*@\"\[\]-]+)*) {2,}(?P<text>\S.*)")


def with_lists(text: str) -> str:
    """Return a docstring with its columns as Markdown lists; other indented lines are code, as Markdown has it."""
    lines: list[str] = []
    inside: int | None = None
    for line in text.splitlines():
        indent = len(line) - len(line.lstrip())
        if entry := ENTRY.fullmatch(line):
            if inside is None and lines and lines[-1]:
                lines.append("")
            lines.append(f"- `{entry['name']}`: {entry['text']}")
            inside = len(entry["indent"])
        elif inside is not None and line.strip() and indent > inside:
            lines[-1] += f" {line.strip()}"
        else:
            if inside is not None and line.strip():
                lines += [""] if lines[-1] else []
            inside = inside if not line.strip() else None
            lines.append(line)
    return "\n".join(lines)


class DocstringLists(Extension):
    """Change every docstring as it is read; the code is not touched."""

    def on_object(self, *, obj, **_: object) -> None:
        if obj.docstring:
            obj.docstring.value = with_lists(obj.docstring.value)
