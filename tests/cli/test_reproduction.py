import json

import numpy as np
import pytest
import typer

from clipret.cli.reproduction import reproduce
from clipret.cli.running import complain
from clipret.errors import ClipretError
from clipret.evaluation.reproduction.published import list_published
from tests.conftest import contents
from tests.helpers.published_caches import (
    FLICKR,
    MEASURED,
    ROWS,
    changed,
    off,
    publish_rows,
    settings,
    write,
    write_flickr,
)


@pytest.fixture
def run(capsys, tmp_path, monkeypatch):
    """Run the command alone, as clipret's own main does."""
    monkeypatch.chdir(tmp_path)
    app = typer.Typer(pretty_exceptions_enable=False)
    app.command()(reproduce)

    def call(*words):
        try:
            status = app([str(word) for word in words], standalone_mode=False) or 0
        except ClipretError as error:
            complain(str(error))
            status = error.exit_code
        output = capsys.readouterr()
        return status, output.out, output.err

    return call


@pytest.fixture
def flickr(tmp_path):
    write_flickr(tmp_path / "flickr30k.h5", images=100)
    return "flickr30k.h5"


def test_figures_within_the_tolerance_are_status_0(run, flickr, monkeypatch):
    publish_rows(monkeypatch, changed(ROWS[FLICKR], MEASURED))
    status, out, err = run("--cache", flickr, "-q")
    assert (status, err) == (0, "")
    lines = [line.split() for line in out.splitlines()]
    assert ["i2t", "R@1", "90.00", "90.00", "+0.00", "ok"] in lines
    assert ["t2i", "R@1", "60.00", "60.00", "+0.00", "ok"] in lines
    assert "outside" not in out


def test_a_figure_outside_is_status_1_with_the_table_the_reasons_and_an_error(run, flickr, monkeypatch):
    publish_rows(monkeypatch, changed(ROWS[FLICKR], off(MEASURED, {("t2i", "R@1"): -2})))
    status, out, err = run("--cache", flickr, "-q")
    assert status == 1
    assert ["t2i", "R@1", "60.00", "62.00", "-2.00", "outside"] in [line.split() for line in out.splitlines()]
    assert out.splitlines()[-2:] == [
        f"{FLICKR}: 1 of 6 figures are outside. What may explain it:",
        "  - 100 images where the protocol has 1,000",
    ]
    assert err == (
        "error: 1 of 6 figures of flickr30k.h5 are not within 0.5 points of the published ones, the furthest t2i R@1 "
        "of open_clip ViT-B/32 zero-shot, flickr30k-karpathy-1k: 60.00 where 62 was expected; see the explanations "
        "that are printed with the figures, or allow more with --tolerance.\n"
    )
    assert run("--cache", flickr, "-q", "--tolerance", 2)[0] == 0


def test_json_is_the_stages_result_and_nothing_else(run, flickr, monkeypatch, tmp_path):
    publish_rows(monkeypatch, changed(ROWS[FLICKR], off(MEASURED, {("t2i", "R@1"): -2})))
    status, out, err = run("--cache", flickr, "--json", "--out", "out.json")
    assert (status, err.count("\n")) == (1, 1)
    report = json.loads(out)
    assert (report["passed"], report["outside"], report["compared"]) == (False, 1, 6)
    assert json.loads((tmp_path / "out.json").read_text()) == report


def test_progress_is_told_on_standard_error(run, flickr, monkeypatch):
    publish_rows(monkeypatch, changed(ROWS[FLICKR], MEASURED))
    assert run("--cache", flickr)[2] == "protocols 1/1\n"


@pytest.mark.ci
def test_the_list_needs_no_cache(run):
    status, out, err = run("--list")
    assert (status, err) == (0, "")
    assert "    for coco-karpathy-5k zero-shot" in out.splitlines()
    assert "57.94/81.20/87.92 37.09/61.62/71.47" in " ".join(out.split())
    assert json.loads(run("--list", "--json")[1]) == list_published()


def test_the_list_with_something_to_measure_is_refused(run):
    assert run("--list", "--tolerance", 1, "--cache", "a.h5") == (
        2,
        "",
        "error: --list measures nothing; leave out --cache, --tolerance.\n",
    )


def test_bad_input_is_said_in_one_line(run, tmp_path):
    assert run() == (
        2,
        "",
        "error: reproduce needs a cache; give it with --cache FILE, or see what was published and the cache that each "
        "row needs with --list.\n",
    )
    assert run("--cache", "gone.h5") == (
        1,
        "",
        "error: there is no cache at gone.h5; make it with: clipret extract --dataset NAME --out gone.h5\n",
    )
    owners = contents().caption_images
    images, texts = np.eye(60, 8) + 1, np.ones((len(owners), 8))
    write(tmp_path / "shop.h5", images, texts, owners=owners, splits=np.full(60, 2), **settings("shop"))
    assert run("--cache", "shop.h5", "--head", "nowhere") == (
        1,
        "",
        "error: there is no head at nowhere; expected a head.safetensors written by clipret train.\n",
    )
    status, out, err = run("--cache", "shop.h5")
    assert (status, out) == (2, "")
    assert err.startswith("error: no published figure of ViT-B/32 matches shop.h5: data set 'shop', ")
