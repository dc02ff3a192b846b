"""Whatever data and names hold, a page has it as text: it makes no element, turns no line round, and stays short."""

import shutil
from html.parser import HTMLParser

import numpy as np
import pytest

from clipret import LookConfig, ReportConfig, SweepConfig, TrainConfig, look, report, sweep, train
from clipret.cache import reading
from clipret.reporting.pages.markup import text
from tests.conftest import contents, write_cache

HARM = (
    "</title></style><script>alert(1)</script><img src=x onerror=alert(2)>\"double\" 'single' & &lt;b&gt; "
    "\u202eright to left\u2066\u200f \x1b[31mred \x85\u2028line"
)
# Control characters, and marks that turn the text after them round, and would be there unseen.
UNSEEN = "\x00\x1b\x85\u2028\u200f\u202e\u2066"
LONG = "x" * 10_000
_IMAGES = 60


class Elements(HTMLParser):
    """Every element with its attributes, and all text."""

    def __init__(self, page):
        super().__init__()
        self.elements, self.texts = [], []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.texts.append(data)


def assert_harmless(page):
    parsed = Elements(page)
    names = {name for name, _ in parsed.elements}
    assert not names & {"script", "link", "iframe", "object", "form", "base", "img", "b"}
    for _, attributes in parsed.elements:
        for name, value in attributes.items():
            assert not name.startswith("on")
            assert name not in ("src", "href") or value.startswith("#")
    assert not set(page) & set(UNSEEN)
    assert "x" * 700 not in page
    # All of it is there to be read.
    whole = "".join(parsed.texts)
    assert "<script>alert(1)</script>" in whole
    assert "\\u202eright to left" in whole
    assert '"double"' in whole
    assert "\\x00nul" in whole


@pytest.fixture(autouse=True)
def nul(monkeypatch):
    """Every text of a cache ends with a NUL, as packed texts of imported features may; HDF5's cannot."""
    plain = reading.read_texts
    monkeypatch.setattr(reading, "read_texts", lambda cache, name: [f"{value} \x00nul" for value in plain(cache, name)])


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    """The path of a cache whose every text means harm, some of it in two splits, and 10,000 letters long."""
    folder = tmp_path_factory.mktemp("hostile")
    base = contents(images=_IMAGES)
    captions = [f"{HARM} {row % 40} {LONG if row % 7 == 0 else ''}" for row in range(len(base.captions))]
    made = contents(
        images=_IMAGES,
        captions=captions,
        caption_ids=[f"{HARM} {row}" for row in range(len(captions))],
        image_ids=[f"{HARM} {row}" for row in range(_IMAGES)],
        image_files=[f"{HARM} {LONG if row % 5 == 0 else ''} {row}.jpg" for row in range(_IMAGES)],
        inputs=base.inputs | {"dataset": HARM},
        about=base.about | {"model": HARM, "split_rule": HARM, "remarks": [HARM], "command": HARM, "root": HARM},
    )
    digests = np.random.default_rng(0).integers(256, size=(_IMAGES, 32)).astype(np.uint8)
    # Files of val and test with equal bytes, so that there is a leak to be shown.
    digests[4] = digests[3]
    return write_cache(folder / "c.h5", made, digests=digests)


def test_look_shows_all_of_it_as_text(hostile, tmp_path):
    found = look(LookConfig(cache=hostile, out=tmp_path / "l.html", leaks=tmp_path / "leaks.csv", listed=50))
    assert found["leak_counts"]["equal bytes"] > 0
    assert found["leak_counts"]["same caption"] > 0
    page = (tmp_path / "l.html").read_text(encoding="utf-8")
    assert_harmless(page)
    assert len(page) < 2_000_000
    table = (tmp_path / "leaks.csv").read_text(encoding="utf-8")
    assert not set(table) & {"\x00", "\x1b"}


def test_reports_show_all_of_it_as_text(hostile, tmp_path):
    runs = [
        train(TrainConfig(cache=hostile, epochs=1, seed=seed, name=f"<script>'\"\u202e{seed}", runs_dir=tmp_path))[
            "run"
        ]
        for seed in (0, 1)
    ]
    report(ReportConfig(runs=runs, out=tmp_path / "r.html"))
    page = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert_harmless(page)
    assert "Training over seeds" in page
    assert "&lt;script&gt;&#x27;&quot;\\u202e0" in page
    assert len(page) < 2_000_000


@pytest.mark.ci
def test_a_report_on_a_sweep_shows_all_of_it_as_text(hostile, tmp_path):
    axes = {"lr": "1e-4,1e-3", "margin": "0,0.2", "epochs": "1"}
    folder = sweep(SweepConfig(cache=hostile, axes=axes, seeds=(0,), name="<img src=x>", runs_dir=tmp_path))["sweep"]
    report(ReportConfig(runs=(folder,), out=tmp_path / "r.html"))
    page = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert_harmless(page)
    assert "Report: &lt;img src=x&gt;" in page


@pytest.mark.ci
def test_figures_for_papers_are_drawn_all_the_same(hostile, tmp_path):
    pytest.importorskip("matplotlib")
    run = train(TrainConfig(cache=hostile, epochs=1, name="$x_{1}$ <b>", runs_dir=tmp_path))["run"]
    report(ReportConfig(runs=(run,), out=tmp_path / "r.html", figures=tmp_path / "f"))
    tables = (tmp_path / "f/figures.tex").read_text(encoding="utf-8")
    assert not set(tables) & {"\x00", "\x1b"}
    assert (tmp_path / "f/recall-t2i.pdf").read_bytes().startswith(b"%PDF")
    shutil.rmtree(tmp_path / "f")


@pytest.mark.parametrize("letter", UNSEEN)
def test_what_cannot_be_seen_is_written_out(letter):
    shown = text(f"a{letter}b")
    assert letter not in shown
    assert shown in ("a b", f"a\\x{ord(letter):02x}b", f"a\\u{ord(letter):04x}b")
