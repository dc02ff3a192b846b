"""A report says what the run's files say, does no harm whatever the data hold, and is whole without pictures."""

import csv
import html
import json
import re
import shutil
from html.parser import HTMLParser

import numpy as np
import pytest

from clipret import EvalConfig, ExtractConfig, FeatureCache, ReportConfig, TrainConfig, extract, report, train
from clipret.errors import RunError, UsageError

HARMFUL = '</title><script>alert(1)</script><img src=x onerror=alert(2)> "quoted" \u202egnp.exe\x00'


class Tables(HTMLParser):
    """The texts of all tables, row by row, and every tag with its attributes."""

    def __init__(self, text):
        super().__init__()
        self.rows, self.tags, self._cell = [], [], None
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self._cell = []

    def handle_data(self, data):
        if self._cell is not None:
            self._cell.append(data)

    def handle_endtag(self, tag):
        if tag in ("td", "th"):
            self.rows[-1].append("".join(self._cell).strip())
            self._cell = None

    def row(self, label, *, number=0):
        return [row for row in self.rows if row and row[0] == label][number]


@pytest.fixture(scope="module")
def reported(searchable, tmp_path_factory):
    """The run, the page and what report returned."""
    folder = tmp_path_factory.mktemp("reported")
    run = shutil.copytree(searchable.run, folder / "run")
    result = report(ReportConfig(runs=(run,), out=folder / "report.html"))
    return run, (folder / "report.html").read_text(encoding="utf-8"), result


def test_figures_are_those_of_metrics_json(reported):
    run, text, _ = reported
    tables, metrics = Tables(text), json.loads((run / "metrics.json").read_text())
    for number, direction in enumerate(("t2i", "i2t")):
        for name in ("R@1", "R@5", "R@10", "mAP@10", "MRR"):
            cells = tables.row(name, number=number)
            for cell, head in zip(cells[1:3], ("zero-shot", "trained"), strict=True):
                assert cell.split()[0] == f"{100 * metrics['results'][head][direction][name]:.1f}"
                low, high = metrics["intervals"]["heads"][head][direction][name]
                assert cell.partition(" ")[2] == f"[{100 * low:.1f}, {100 * high:.1f}]"
    assert [cell.split()[0] for cell in tables.row("rsum")[1:3]] == [
        f"{metrics['rsum'][head]:.3f}" for head in ("zero-shot", "trained")
    ]


def test_hubs_and_groups_are_those_of_failures_json(reported):
    run, text, _ = reported
    tables, failures = Tables(text), json.loads((run / "failures.json").read_text())
    for number, direction in enumerate(("t2i", "i2t")):
        part = failures["directions"][direction]
        assert tables.row("skewness of N_10", number=number)[1:] == [
            f"{part['hubs'][head]['skewness']:.2f}" for head in failures["heads"]
        ]
        everything = tables.row("all", number=number)
        assert everything[1] == f"{part['queries']:,}"
        assert everything[2:4] == [f"{100 * part['overall'][head]['R@1']:.1f}" for head in failures["heads"]]
        for group in part["breakdown"]["caption_length"]["bins"]:
            low, high = f"{group['low']:.3g}", f"{group['high']:.3g}"
            label = f"words of a caption: {low if low == high else f'{low} to {high}'}"
            row = tables.row(label, number=number if direction == "t2i" else -1)
            assert row[1] == f"{group['queries']:,}"
        for hub in part["hubs"]["trained"]["largest"][:3]:
            assert html.escape(", ".join(f"{head} {hub['counts'][head]:,}" for head in failures["heads"])) in text


def test_curves_are_those_of_history_csv(reported):
    run, text, _ = reported
    with (run / "history.csv").open() as file:
        history = list(csv.DictReader(file))
    drawn = re.search(r'aria-label="Validation rsum by epoch">.*?<path class="line c1" d="([^"]+)"', text, re.S)[1]
    points = [tuple(map(float, point.split(","))) for point in drawn[1:].split("L")]
    assert len(points) == len(history)
    values = np.array([float(row["val_rsum"]) for row in history])
    heights = np.array([-place for _, place in points])
    # The drawing is linear in them.
    spread = (values - values.min()) / np.ptp(values)
    np.testing.assert_allclose((heights - heights.min()) / np.ptp(heights), spread, atol=0.01)
    kept = json.loads((run / "result.json").read_text())["kept_epoch"]
    assert f">kept: {kept}<" in text


def test_changes_are_counted_over_all_queries(reported):
    run, text, _ = reported
    failures = json.loads((run / "failures.json").read_text())
    for direction in ("t2i", "i2t"):
        changed = failures["directions"][direction]["changed"]
        counts = f"{changed['improved']:,} better, {changed['worsened']:,} worse, {changed['same']:,} the same"
        assert f"{direction}: {counts}." in text


def test_it_asks_nobody_and_runs_nothing(reported):
    _, text, result = reported
    tables = Tables(text)
    names = {name for name, _ in tables.tags}
    assert not names & {"script", "link", "iframe", "object", "form", "base"}
    for name, attributes in tables.tags:
        for attribute, value in attributes.items():
            assert not attribute.startswith("on")
            if attribute in ("src", "href"):
                assert value.startswith(("data:image/jpeg;base64,", "#")), (name, value)
    assert "default-src 'none'" in text
    assert result["bytes"] == len(text.encode())
    assert result["pictures"] > 20
    assert result["pictures_left_out"] == 0


def test_without_pictures_it_is_whole(searchable, tmp_path):
    run = shutil.copytree(searchable.run, tmp_path / "run")
    result = report(ReportConfig(runs=(run,), out=tmp_path / "r.html", root=tmp_path))
    text = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert result["pictures"] == 0
    assert "<img" not in text
    file = FeatureCache(searchable.cache).image_files[0]
    assert file.endswith(".png")
    assert re.search(r'<span class="file">[^<]+\.png</span>', text)


def test_pictures_keep_within_the_size(searchable, tmp_path):
    run = shutil.copytree(searchable.run, tmp_path / "run")
    result = report(ReportConfig(runs=(run,), out=tmp_path / "r.html", most_bytes=200_000))
    assert result["bytes"] < 400_000
    assert result["pictures"] > 0
    assert result["pictures_left_out"] > 0


def test_harmful_names_and_captions_are_text(searchable, tmp_path):
    """In captions, in ids and in the run's name; a caption of 10,000 characters too."""
    table = tmp_path / "harm.csv"
    files = FeatureCache(searchable.cache).image_files[:24]
    with table.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("image", "caption", "split"))
        for number, name in enumerate(files):
            caption = f"{HARMFUL.replace(chr(0), '')} {number} " + ("x" * 10_000 if number == 3 else "")
            writer.writerow((name, caption, "train" if number < 12 else "test"))
    settings = {"root": searchable.root, "model": "tiny-emoji", "workers": 0, "device": "cpu"}
    extract(ExtractConfig(dataset=str(table), out=tmp_path / "harm.h5", **settings))
    name = "run <b>&amp; \u202e"
    run = train(TrainConfig(cache=tmp_path / "harm.h5", epochs=1, name=name, runs_dir=tmp_path / "runs"))["run"]
    report(ReportConfig(runs=(run,), out=tmp_path / "r.html"))
    text = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert not {"script", "b"} & {tag for tag, _ in Tables(text).tags}
    assert "\u202e" not in text
    assert "\\u202e" in text
    assert "x" * 1000 not in text
    assert len(text) < 3_000_000


def test_several_runs_make_one_page(searchable, tmp_path):
    runs = [shutil.copytree(searchable.run, tmp_path / name) for name in ("one", "two")]
    result = report(ReportConfig(runs=runs, out=tmp_path / "r.html"))
    text = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert result["runs"] == list(map(str, runs))
    assert "Figures of one" in text
    assert "Figures of two" in text


def test_what_is_no_run_is_refused(searchable, tmp_path):
    with pytest.raises(RunError, match="there is no head at"):
        report(ReportConfig(runs=(tmp_path,), out=tmp_path / "r.html"))
    with pytest.raises(UsageError, match=r"expected a file that ends with \.html"):
        report(ReportConfig(runs=(searchable.run,), out=tmp_path / "r.pdf"))
    with pytest.raises(UsageError, match="name one run or more"):
        ReportConfig(runs=())


def test_the_default_metrics_are_those_of_eval():
    assert EvalConfig().columns[-1] == "rsum"


def test_figures_for_papers_are_those_of_the_page(searchable, tmp_path):
    pytest.importorskip("matplotlib")
    run = shutil.copytree(searchable.run, tmp_path / "run")
    config = ReportConfig(runs=(run,), out=tmp_path / "r.html", figures=tmp_path / "figures")
    result = report(config)
    names = {path.name for path in (tmp_path / "figures").iterdir()}
    assert {path.rpartition("/")[2] for path in result["figures"]} == names
    assert {"recall-t2i.svg", "recall-t2i.pdf", "ranks-i2t.pdf", "loss.svg", "figures.tex", "failures.tex"} <= names
    page = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert page.count("<figure>") == len([name for name in names if name.endswith(".svg")])
    drawing = (tmp_path / "figures/recall-t2i.svg").read_text()
    # Letters are outlines, so that no font is needed; a page of a paper has columns of 3.3 inches.
    assert "<text" not in drawing
    assert 'width="237.6pt"' in drawing
    content = (tmp_path / "figures/recall-t2i.pdf").read_bytes()
    assert content.startswith(b"%PDF")
    assert b"/FontFile2" in content
    metrics = json.loads((run / "metrics.json").read_text())
    assert f"{100 * metrics['results']['trained']['t2i']['R@1']:.1f}" in (tmp_path / "figures/figures.tex").read_text()
    before = {name: (tmp_path / "figures" / name).read_bytes() for name in names}
    report(config)
    assert {name: (tmp_path / "figures" / name).read_bytes() for name in names} == before


def test_figures_need_their_package(searchable, tmp_path, monkeypatch):
    monkeypatch.setattr("clipret.exports.packages.importlib.util.find_spec", lambda name: None)
    with pytest.raises(UsageError) as caught:
        report(ReportConfig(runs=(searchable.run,), out=tmp_path / "r.html", figures=tmp_path / "figures"))
    assert str(caught.value) == "--figures needs the package matplotlib; run: pip install 'clipret[figures]'"
