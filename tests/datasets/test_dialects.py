"""CSV as spreadsheets and other tools write it."""

import pytest

from tests.helpers.own_data import load

ROWS = [("a.jpg", "café 0"), ("b.jpg", "café; 1, no 2")]
COMMAS = 'image,caption\r\na.jpg,café 0\r\nb.jpg,"café; 1, no 2"\r\n'


def separated(sign, head="image{}caption"):
    quoted = [f'{image}{sign}"{caption}"' for image, caption in ROWS]
    return "\r\n".join([head.format(sign), *quoted]) + "\r\n"


@pytest.mark.parametrize(
    ("name", "content", "remarks"),
    [
        ("t.csv", COMMAS.encode(), ()),
        ("t.csv", separated("\t").encode(), ("the cells of t.csv are separated by tabs, not by commas",)),
        ("t.csv", separated(";").encode(), ("the cells of t.csv are separated by semicolons, not by commas",)),
        ("t.tsv", COMMAS.encode(), ("the cells of t.tsv are separated by commas, not by tabs",)),
        ("t.csv", f"sep=,\r\n{COMMAS}".encode(), ()),
        ("t.csv", f"sep=;\r\n{separated(';')}".encode(), ()),
        ("t.csv", COMMAS.encode("utf-16"), ()),
        ("t.csv", b"\xfe\xff" + COMMAS.encode("utf-16-be"), ()),
        ("t.csv", b"\xef\xbb\xbf" + COMMAS.encode(), ()),
        ("t.csv", f"{COMMAS},\r\n , \r\n\r\n".encode(), ()),
    ],
)
def test_what_is_certain_is_read(tmp_path, name, content, remarks):
    (tmp_path / name).write_bytes(content)
    dataset = load(tmp_path / name)
    assert list(zip(dataset.image_files, dataset.captions, strict=True)) == ROWS
    assert dataset.remarks == remarks


def test_a_header_that_could_be_either_is_taken_by_the_ending_of_the_file(tmp_path):
    (tmp_path / "t.csv").write_text("image,caption;x\na.jpg,one;two\n", encoding="utf-8")
    dataset = load(tmp_path / "t.csv", columns="caption=caption;x")
    assert dataset.captions == ["one;two"]


def test_lines_are_counted_with_excels_own(tmp_path):
    (tmp_path / "t.csv").write_text("sep=,\nimage,caption\na.jpg,one,two\n", encoding="utf-8")
    with pytest.raises(Exception, match=r"t\.csv, line 3 has 3 cells, expected 2 \(image, caption\)"):
        load(tmp_path / "t.csv")
