"""The page in a real browser: what people do with it, by mouse and by keyboard alone, and what it must not do."""

import os
from pathlib import Path

import pytest

from clipret import FeatureCache
from tests.helpers import REPOSITORY
from tests.helpers.browsing import browsing, needs_browser, serious_faults
from tests.helpers.searchable import HARMFUL
from tests.service.conftest import serving

pytestmark = [pytest.mark.ci, needs_browser]
WIDTHS = (360, 1440)


@pytest.fixture(scope="module")
def browser():
    with browsing() as chromium:
        yield chromium


@pytest.fixture
def opened(browser, served):
    """Opens the page at an address; in the end nothing was complained of, and no request left the host."""
    contexts, faults, requests = [], [], []

    def call(address="", *, width=1440, scheme="light", url=served.url):
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda said: faults.append(said.text) if said.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("request", lambda request: requests.append(request.url))
        page.goto(url + address)
        page.wait_for_selector("body[data-ready]")
        return page

    call.faults = faults
    yield call
    for context in contexts:
        context.close()
    assert faults == []
    assert all(address.startswith(("http://127.0.0.1:", "data:", "blob:")) for address in requests)


def settle(page, text=" ranked"):
    """Wait until the results are there."""
    page.wait_for_function("text => document.getElementById('status').textContent.includes(text)", arg=text)
    page.wait_for_load_state("networkidle")


def rows(page, place=0):
    column = page.locator("section.head").nth(place)
    return [int(row) for row in column.locator(".hit").evaluate_all("all => all.map(one => one.dataset.row)")]


def test_words_give_the_pictures_that_search_gives(opened, served):
    page = opened()
    page.fill("#text", "a red heart")
    page.press("#text", "Enter")
    settle(page)
    for place, head in enumerate(("zero-shot", served.client().info()["heads"][0])):
        expected = [hit["row"] for hit in served.client().search("a red heart", head=head, k=30)["hits"]]
        assert rows(page, place)[:30] == expected
    assert page.locator(".hit img").first.evaluate("image => image.complete && image.naturalWidth > 0")


def test_moved_items_are_marked_beside_the_other_head(opened, served):
    page = opened("?q=a+face")
    settle(page)
    before, after = rows(page, 0)[:30], rows(page, 1)[:30]
    cards = page.locator("section.head").nth(1).locator(".hit")
    for place, row in enumerate(after[:10], start=1):
        text = cards.nth(place - 1).locator(".numbers").inner_text()
        rank = before.index(row) + 1 if row in before else None
        assert ("same rank" if rank == place else f"from {rank}" if rank else "new in the first") in text


def test_of_a_random_test_caption_the_expected_picture_is_framed_under_both(opened, searchable):
    page = opened()
    page.click("#random")
    settle(page)
    caption = int(page.evaluate("new URLSearchParams(location.search).get('caption')"))
    cache = FeatureCache(searchable.cache)
    assert caption in cache.rows("text", split="test")
    for place in (0, 1):
        column = page.locator("section.head").nth(place)
        rank = int(column.locator(".count").inner_text().split("expected at rank ")[1].replace(",", ""))
        if rank <= 30:
            assert column.locator(".hit.expected").get_attribute("data-row") == str(cache.caption_images[caption])


def test_a_picture_is_searched_and_removed(opened, searchable):
    page = opened()
    page.set_input_files("#file", searchable.root / "2764.png")
    settle(page)
    found = rows(page)
    assert page.locator("#picture").is_visible()
    page.click("#drop")
    assert page.locator("#picture").is_hidden()
    page.fill("#text", "a cat")
    page.press("#text", "Enter")
    settle(page, "“a cat”")
    assert rows(page) != found


def test_a_picture_is_dropped_and_pasted(opened, searchable):
    page = opened()
    content = list((searchable.root / "2764.png").read_bytes())
    for event, name in (("drop", "dataTransfer"), ("paste", "clipboardData")):
        page.evaluate(
            """([content, event, name]) => {
                const data = new DataTransfer();
                data.items.add(new File([new Uint8Array(content)], "x.png", {type: "image/png"}));
                const kind = event === "paste" ? ClipboardEvent : DragEvent;
                document.dispatchEvent(new kind(event, {[name]: data, bubbles: true, cancelable: true}));
            }""",
            [content, event, name],
        )
        settle(page)
        assert page.locator("#picture").is_visible()
        page.click("#drop")


def test_more_like_this_and_captions_for_this(opened):
    page = opened("?q=a+red+heart")
    settle(page)
    first = rows(page)[0]
    page.locator(".hit .picture").first.click()
    page.wait_for_selector("#view[open]")
    page.click("#like")
    settle(page)
    assert rows(page)[0] == first
    page.locator(".hit .picture").first.click()
    page.click("#captions")
    page.wait_for_selector(".hits.captions .hit")
    page.locator(".hits.captions button.caption").first.click()
    page.wait_for_selector(".hits:not(.captions) .hit")
    assert "caption=" in page.url


def test_the_address_says_what_was_asked_for(opened):
    page = opened()
    page.fill("#text", "2:sun - face")
    page.press("#text", "Enter")
    settle(page)
    page.select_option("#split", "test")
    page.wait_for_function("() => document.querySelector('.count')?.textContent.startsWith('40 ')")
    address, found = page.url, rows(page)
    again = opened(address.partition("/?")[2] and "?" + address.partition("?")[2])
    settle(again)
    assert rows(again) == found
    assert again.input_value("#text") == "2:sun - face"
    page.go_back()
    page.wait_for_function("() => !document.querySelector('.count').textContent.startsWith('40 ')")
    assert page.input_value("#split") == "all"


def test_scrolling_brings_more(opened, searchable):
    page = opened("?q=sun&right=")
    settle(page)
    for _ in range(40):
        page.mouse.wheel(0, 5000)
        page.wait_for_timeout(60)
    found = rows(page)
    assert len(found) == len(set(found)) == len(FeatureCache(searchable.cache).image_ids)


def test_by_keyboard_alone(opened):
    page = opened()
    page.keyboard.press("/")
    page.keyboard.type("a red heart")
    page.keyboard.press("Enter")
    settle(page)
    page.locator(".hit .picture").first.focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowLeft")
    assert page.evaluate("document.activeElement.closest('.hit').dataset.row") == str(rows(page)[1])
    page.keyboard.press("Enter")
    page.wait_for_selector("#view[open]")
    page.keyboard.press("Escape")
    assert page.locator("#view[open]").count() == 0
    assert page.evaluate("document.activeElement.closest('.hit').dataset.row") == str(rows(page)[1])
    for _ in range(3):
        page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.tagName") == "BUTTON"


def test_marks_are_kept_and_taken_away(opened, browser, searchable, tmp_path):
    with serving(searchable, tmp_path, heads=False) as own:
        page = opened("?q=a+thing", url=own.url)
        settle(page)
        button = page.locator(".marks button").first
        button.click()
        settle(page, "1 marked as right, 0 as wrong")
        assert button.get_attribute("aria-pressed") == "true"
        file = FeatureCache(searchable.cache).image_files[rows(page)[0]]
        assert f"{file},a thing," in (tmp_path / "marks.csv").read_text(encoding="utf-8")
        button.click()
        settle(page, "0 marked as right, 0 as wrong")


def test_the_token_is_asked_for_once(browser, searchable, tmp_path):
    with serving(searchable, tmp_path, heads=False, token="0123456789abcdef") as locked:
        page = browser.new_page()
        page.goto(f"{locked.url}?q=sun")
        page.wait_for_selector("#login[open]")
        page.fill("#token", "wrong")
        page.press("#token", "Enter")
        page.wait_for_function("() => document.getElementById('login-error').textContent !== ''")
        page.fill("#token", "0123456789abcdef")
        page.press("#token", "Enter")
        settle(page)
        assert page.locator(".hit img").first.evaluate("image => image.complete && image.naturalWidth > 0")
        page.reload()
        settle(page)
        page.close()


def test_harmful_captions_are_text(opened):
    page = opened(f"?find=captions&right=&q={'red'}")
    settle(page)
    for _ in range(20):
        page.mouse.wheel(0, 20_000)
        page.wait_for_timeout(50)
    assert page.title() == "clipret: search"
    assert page.locator("script").count() == 1
    assert HARMFUL.partition("\x1b")[0].strip() in page.locator("#results").inner_text()


def test_what_went_wrong_is_said(opened):
    page = opened("?q=sun+-+sun")
    page.wait_for_function("() => document.getElementById('status').textContent.includes('cancel each other out')")
    # What browsers say of every answer that is an error.
    assert all("400 (Bad Request)" in fault for fault in opened.faults)
    opened.faults.clear()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
def test_it_fits_and_has_no_serious_fault_of_accessibility(opened, width, scheme):
    page = opened("?q=a+red+heart", width=width, scheme=scheme)
    settle(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert serious_faults(page) == []
    page.locator(".hit .picture").first.click()
    page.wait_for_selector("#view[open]")
    assert serious_faults(page) == []
    page.click("#captions")
    page.wait_for_selector(".hits.captions .hit")
    assert serious_faults(page) == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize(
    ("name", "width", "address"),
    [
        ("search-side-by-side", 1440, "?q=a+red+heart"),
        ("search-phone", 360, "?q=a+red+heart&right="),
    ],
)
def test_the_pictures_of_the_manual(opened, name, width, address, tmp_path):
    """With CLIPRET_PICTURES=1 they are written to docs/pictures."""
    page = opened(address, width=width)
    settle(page)
    folder = REPOSITORY / "docs/pictures" if os.environ.get("CLIPRET_PICTURES") else tmp_path
    page.screenshot(path=folder / f"{name}.png")
    assert (folder / f"{name}.png").stat().st_size > 10_000
    assert Path(REPOSITORY / f"docs/pictures/{name}.png").exists()
