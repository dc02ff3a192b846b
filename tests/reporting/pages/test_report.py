"""A report says what the run's files say, does no harm whatever the data hold, and is whole without pictures."""

import csv
import json
import re
import shutil

import pytest

from clipret import EvalConfig, ExtractConfig, FeatureCache, ReportConfig, TrainConfig, extract, report, train
from clipret.errors import RunError, UsageError
from tests.helpers.tables import Tables

HARMFUL = '</title><script>alert(1)</script><img src=x onerror=alert(2)> "quoted" \u202egnp.exe\x00'


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


@pytest.mark.ci
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
