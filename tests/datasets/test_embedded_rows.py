import pytest

from clipret.datasets import embedded_rows
from clipret.datasets.embedded_rows import EmbeddedRows, Part
from tests.helpers.hub import image, images, write_arrow, write_parquet

WANTED = [("image", "image"), ("caption", "text"), ("split", "split"), ("id", "id")]
CELLS = [image("red", "a.png"), image("green", "b.png"), None]


@pytest.mark.parametrize("write", [write_parquet, write_arrow])
def test_a_row_is_cells_that_name_the_image_by_its_place(tmp_path, write):
    name = {write_parquet: "x.parquet", write_arrow: "x.arrow"}[write]
    write(tmp_path / name, {"text": ["one", "two", "three"], "image": images(CELLS)})
    rows = EmbeddedRows(tmp_path, [Part(name, split="dev")], "image")
    assert list(rows(WANTED)) == [
        ("0", [f"{name}/image#0/a.png", "one", "dev", None]),
        ("1", [f"{name}/image#1/b.png", "two", "dev", None]),
    ]
    assert rows.remarks == (f"left out 1 row whose `image` has no image: {name}#2",)


def test_rows_of_several_files_say_which(tmp_path):
    for name in ("x.parquet", "y.parquet"):
        write_parquet(tmp_path / name, {"text": ["one"], "image": images([image("red", name)])})
    rows = EmbeddedRows(tmp_path, [Part("x.parquet"), Part("y.parquet")], "image")
    assert [number for number, _ in rows(WANTED)] == ["0 of x.parquet", "0 of y.parquet"]


@pytest.mark.parametrize(
    ("cells", "texts", "read"),
    [
        # Different names, or lists of captions: rows are images.
        ([image("red", "a"), image("red", "b")], ["one", "two"], 0),
        ([image("red"), image("green")], [["one"], ["two"]], 0),
        # The same name in two rows, and no name at all.
        ([image("red", "a"), image("blue", "a"), image("red", "b")], ["one", "two", "three"], 2),
        ([image("red"), image("green"), image("red")], ["one", "two", "three"], 3),
    ],
)
def test_images_are_read_only_where_nothing_else_tells_them_apart(tmp_path, monkeypatch, cells, texts, read):
    write_parquet(tmp_path / "x.parquet", {"text": texts, "image": images(cells)})
    names, original = [], embedded_rows.read_member
    monkeypatch.setattr(embedded_rows, "read_member", lambda path, name: names.append(name) or original(path, name))
    assert len(list(EmbeddedRows(tmp_path, [Part("x.parquet")], "image")(WANTED))) == len(cells)
    assert len(names) == read
