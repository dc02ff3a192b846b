"""The script that makes published rows from open_clip's tables writes what the package has."""

import csv
import json
import shutil

import pytest

from tests.helpers import REPOSITORY

pytest.importorskip("open_clip", reason="needs pip install '.[open-clip]'")
PLAIN = (("ViT-B-16-SigLIP", "webli"), ("RN50", "cc12m"), ("RN50-quickgelu", "cc12m"), ("ViT-B-32", "openai"))


@pytest.fixture
def script(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(REPOSITORY / "scripts")
    import published_figures

    shipped = published_figures.PACKAGE
    shutil.copy(shipped / "published.json", tmp_path)
    monkeypatch.setattr(published_figures, "PACKAGE", tmp_path)
    return published_figures, shipped


def tables_of(folder):
    content = [json.loads((folder / f"published_{name}.json").read_text()) for name in ("open_clip", "multilingual")]
    return [table for part in content for table in part["tables"]]


def write_tables(script, shipped, folder):
    """The rows of PLAIN as the two CSV files have them, from the figures of the package."""
    tables = tables_of(shipped)
    by_hand = json.loads((shipped / "published.json").read_text())["rows"]
    plain, multilingual = {}, {}
    for table in tables:
        theirs = {**script.DATASETS, **script.MULTILINGUAL}
        name = next(key for key, about in theirs.items() if about["dataset"] == table["dataset"])
        for pair in PLAIN:
            figures = table["rows"].get(script.name_of(pair)) or next(
                [row[side][f"R@{cut}"] for side in script.SIDES for cut in script.CUTS]
                for row in by_hand
                if (row["source"], row["model"], row["dataset"]) == ("open_clip", "ViT-B/32", table["dataset"])
            )
            row = (multilingual if "languages" in table else plain).setdefault(pair, {})
            for place, (side, cut) in enumerate((side, cut) for side in script.SIDES for cut in script.CUTS):
                if "languages" in table:
                    codes = [
                        "jp" if language == "ja" and name != "crossmodal3600" else language
                        for language in languages_of(table)
                    ]
                    for code, value in zip(codes, figures[f"{side} R@{cut}"], strict=True):
                        row[f"{name} {script.SIDES[side][1]}_recall@{cut} {code}"] = f"{value / 100:.4f}"
                else:
                    row[f"{name} {script.SIDES[side][0]} R@{cut}"] = f"{figures[place] / 100:.4f}"
    return [write_csv(folder / name, rows) for name, rows in (("plain.csv", plain), ("multilingual.csv", multilingual))]


def languages_of(table):
    return ["avg" if language == "mean" else language for language in table["languages"]]


def write_csv(path, rows):
    columns = ["name", "pretrained", *next(iter(rows.values()))]
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows([*pair, *row.values()] for pair, row in rows.items())
    return path


def test_rows_are_those_of_the_package(script, tmp_path, monkeypatch):
    module, shipped = script
    paths = write_tables(module, shipped, tmp_path)
    monkeypatch.setattr("sys.argv", ["published_figures.py", *map(str, paths)])
    module.main()
    for written, table in zip(tables_of(tmp_path), tables_of(shipped), strict=True):
        assert written["rows"] == {name: table["rows"][name] for name in written["rows"]}
        assert {key: written[key] for key in ("dataset", "protocol")} == {
            key: table[key] for key in ("dataset", "protocol")
        }
        assert written["unanswerable"] == ["open_clip:RN50/cc12m"]
        assert written["remarks"] == {"open_clip:RN50/cc12m": "gelu"}
    models = json.loads((tmp_path / "published_open_clip.json").read_text())["models"]
    assert models == {
        "open_clip:ViT-B-16-SigLIP/webli": {
            "also": ["hf:google/siglip-base-patch16-224", "open_clip:hf-hub:timm/ViT-B-16-SigLIP"]
        },
        "open_clip:RN50-quickgelu/cc12m": {
            "also": ["open_clip:hf-hub:timm/resnet50_clip.cc12m", "open_clip:RN50/cc12m"]
        },
    }


def test_rows_written_by_hand_that_are_not_the_tables_are_refused(script, tmp_path, monkeypatch):
    module, shipped = script
    paths = write_tables(module, shipped, tmp_path)
    text = (tmp_path / "published.json").read_text()
    (tmp_path / "published.json").write_text(text.replace("30.44", "30.45"))
    monkeypatch.setattr("sys.argv", ["published_figures.py", *map(str, paths)])
    with pytest.raises(AssertionError, match="ViT-B-32"):
        module.main()
