"""The pages that are made from the code are up to date, and the site builds without a warning and can be searched."""

import json
import os
import re
import subprocess
import sys

import pytest

from clipret import cli
from tests.helpers import REPOSITORY
from tests.helpers.pages import DOCS

SCRIPTS = REPOSITORY / "scripts"


@pytest.fixture
def docs_pages(monkeypatch):
    monkeypatch.syspath_prepend(SCRIPTS)
    import docs_pages

    return docs_pages


@pytest.mark.parametrize("page", ["cli.md", "api.md"])
def test_the_page_is_what_the_script_writes(page, docs_pages):
    assert (DOCS / page).read_text(encoding="utf-8") == docs_pages.PAGES[page](), "run: make docs"


def test_the_page_of_commands_has_every_option_with_its_help(docs_pages):
    page = docs_pages.cli_page()
    for name, command in docs_pages.typer.main.get_command(cli.app).commands.items():
        assert command.hidden == (f"\n## clipret {name}\n" not in page)
        for option in command.params:
            assert command.hidden or option.hidden or f"`{option.opts[0]}`" in page or option.name.upper() in page


def test_columns_of_a_docstring_become_a_list(docs_pages):
    text = (
        "What it does.\n\n    lr    the rate\n    a, b  two of them,\n          on two lines\n\nThe end:\n\n    x = 1\n"
    )
    expected = "What it does.\n\n- `lr`: the rate\n- `a, b`: two of them, on two lines\n\nThe end:\n\n    x = 1"
    assert docs_pages.with_lists(text) == expected


def test_strange_help_stays_text(docs_pages):
    assert docs_pages._escaped("a|b <c> *d* [e]") == r"a\|b \<c\> \*d\* \[e\]"


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    pytest.importorskip("mkdocs", reason="needs pip install '.[docs]'")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", folder]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, env=os.environ)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.ci
@pytest.mark.parametrize(
    ("question", "place"),
    [
        ("how do I add a loss", "extending.html#how-do-i-add-a-loss"),
        ("what is mAP@R", "evaluation.html#what-is-mapr"),
        ("out of memory", "troubleshooting.html#out-of-memory"),
    ],
)
def test_a_new_reader_finds_it_in_the_search(site, question, place):
    index = json.loads((site / "search/search_index.json").read_text(encoding="utf-8"))
    places = [entry["location"] for entry in index["docs"] if question.lower() in entry["title"].lower()]
    assert places == [place]


@pytest.mark.ci
def test_the_site_loads_nothing_from_elsewhere(site):
    """Every script, style sheet, picture and font is a file of the site."""
    for page in site.rglob("*.html"):
        loaded = re.findall(
            r'<(?:script|img|link)[^>]+?(?:src|href)="(https?://[^"]+)"', page.read_text(encoding="utf-8")
        )
        assert not loaded, (page.name, loaded)


@pytest.mark.ci
def test_the_api_page_has_signatures_and_text(site):
    page = re.sub(r"<[^>]+>", "", (site / "api.html").read_text(encoding="utf-8"))
    text = " ".join(page.split())
    for words in ("train (", "evaluate (", "FeatureCache", "TrainConfig(cache", "memory-mapped", "ClipretError"):
        assert words in text or words.replace(" ", "") in text, words
