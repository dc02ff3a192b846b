"""Reports in a real browser: at every width, dark and light, and on paper."""

import os
import shutil
from itertools import pairwise

import pytest

from clipret import LookConfig, ReportConfig, look, report
from tests.helpers import REPOSITORY
from tests.helpers.browsing import browsing, needs_browser, serious_faults

pytestmark = [pytest.mark.ci, needs_browser]


@pytest.fixture(scope="module")
def browser():
    with browsing() as chromium:
        yield chromium


@pytest.fixture(scope="module")
def folder(searchable, tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    run = shutil.copytree(searchable.run, folder / "run")
    report(ReportConfig(runs=(run,), out=folder / "report.html"))
    look(LookConfig(cache=searchable.cache, out=folder / "look.html"))
    return folder


@pytest.fixture
def opened(browser, folder):
    """Opens a page; in the end nothing was complained of, and nobody was asked for anything."""
    contexts, faults, requests = [], [], []

    def call(name="report", *, width, scheme):
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda said: faults.append(said.text))
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("request", lambda request: requests.append(request.url))
        page.goto(f"file://{folder}/{name}.html")
        return page

    yield call
    for context in contexts:
        context.close()
    assert faults == []
    assert all(url.startswith((f"file://{folder}/", "data:image/jpeg;base64,")) for url in requests)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 800, 1440])
@pytest.mark.parametrize("name", ["report", "look"])
def test_it_fits_and_has_no_serious_fault_of_accessibility(opened, name, width, scheme):
    page = opened(name, width=width, scheme=scheme)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    for summary in page.locator("summary").all():
        if summary.locator("..").get_attribute("open") is None:
            summary.click()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert serious_faults(page) == []
    assert page.evaluate("[...document.images].every(image => image.naturalWidth > 0)")


def test_headings_and_pictures_make_sense_read_aloud(opened):
    page = opened(width=800, scheme="light")
    levels = [
        int(level) for level in page.locator("h1, h2, h3, h4").evaluate_all("all => all.map(one => one.tagName[1])")
    ]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(later - earlier <= 1 for earlier, later in pairwise(levels))
    assert page.evaluate("[...document.images].every(image => image.alt)")
    assert page.evaluate("[...document.querySelectorAll('svg')].every(drawing => drawing.getAttribute('aria-label'))")


def test_it_can_be_printed(opened):
    content = opened(width=1440, scheme="light").pdf()
    assert content.startswith(b"%PDF")
    assert len(content) > 50_000


def test_the_pictures_of_the_manual(opened, tmp_path):
    """With CLIPRET_PICTURES=1 they are written to docs/pictures."""
    page = opened(width=1000, scheme="light")
    folder = REPOSITORY / "docs/pictures" if os.environ.get("CLIPRET_PICTURES") else tmp_path
    page.locator("section:has(h2:text-is('Recall and ranks')) .charts").screenshot(path=folder / "report-recall.png")
    page.locator("article.query").first.screenshot(path=folder / "report-queries.png")
    page = opened("look", width=800, scheme="light")
    page.locator("article.query").first.screenshot(path=folder / "look-leaks.png")
    for name in ("report-recall", "report-queries", "look-leaks"):
        assert (folder / f"{name}.png").stat().st_size > 3_000
        assert (REPOSITORY / f"docs/pictures/{name}.png").exists()
