"""The README and the manual, and the code blocks in them."""

import re
import shlex
from pathlib import Path

from tests.helpers import REPOSITORY

README = REPOSITORY / "README.md"
DOCS = REPOSITORY / "docs"
# docs/cli.md and docs/api.md are written from the code, whose help and docstrings have tests of their own.
GENERATED = ("cli.md", "api.md")
PAGES = [README, REPOSITORY / "data/README.md", REPOSITORY / "CONTRIBUTING.md"]
PAGES += [page for page in sorted(DOCS.glob("*.md")) if page.name not in GENERATED]


def name_of(page: Path) -> str:
    return page.relative_to(REPOSITORY).as_posix()


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def blocks(language: str, page: Path) -> list[str]:
    """The contents of a page's code blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", text_of(page), flags=re.MULTILINE | re.DOTALL)


def commands(program: str, *pages: Path) -> list[list[str]]:
    """Every call of a program in the console blocks of pages (all pages), comments and the program's name left out."""
    lines = "\n".join(block for page in pages or PAGES for block in blocks("console", page))
    return [
        shlex.split(line.removeprefix("$ "), comments=True)[1:]
        for line in lines.replace("\\\n", " ").splitlines()
        if line.removeprefix("$ ").startswith(f"{program} ")
    ]


def outputs(page: Path) -> list[tuple[list[str], str, bool]]:
    """The blocks that show what a command prints: its words, the text, and whether that is a part of it only."""
    marked = re.findall(
        r"^<!-- output(, in part,)? of: clipret (.*?) -->\n```\n(.*?)^```",
        text_of(page),
        flags=re.MULTILINE | re.DOTALL,
    )
    return [(shlex.split(words), text, bool(part)) for part, words, text in marked]
