import pyarrow
import pytest

from clipret.datasets.containers import CONTAINERS, container_of, split_container
from clipret.datasets.row_files import KINDS, member_index, member_name, own_name, read_member
from clipret.errors import DatasetError
from clipret.images import read_file
from tests.helpers.hub import image, images, picture, write_arrow, write_parquet

COLOURS = ("red", "green", "blue", "white", "black")
WRITERS = {".parquet": write_parquet, ".arrow": write_arrow}
COLUMNS = {
    "image": images([image(colour, f"{colour}.png") for colour in COLOURS]),
    "plain": [picture(colour) for colour in COLOURS],
    "large": pyarrow.array([picture(colour) for colour in COLOURS], pyarrow.large_binary()),
    "category": pyarrow.array([picture(colour) for colour in COLOURS]).dictionary_encode(),
    "text": list(COLOURS),
    "several": pyarrow.array([[image(colour), image("grey")] for colour in COLOURS]),
    "image/encoded": [picture(colour) for colour in COLOURS],
}


@pytest.fixture(params=WRITERS)
def path(request, tmp_path):
    return WRITERS[request.param](tmp_path / f"made{request.param}", COLUMNS)


def test_every_kind_of_file_is_a_container():
    assert set(WRITERS) == set(KINDS) == {ending for ending in KINDS if container_of(f"a{ending}/image#0")}
    assert split_container("x/a.parquet/image#17/b.jpg") == ("x/a.parquet", "image#17/b.jpg")
    assert CONTAINERS[".arrow"].read is read_member


@pytest.mark.parametrize("column", ["image", "plain", "large", "category", "image/encoded"])
def test_an_image_is_read_by_its_column_and_row_in_any_order(path, column):
    index = member_index(path)
    for row in (3, 0, 4, 1, 1, 2):
        name = member_name(column, row, name=f"{row}.png")
        content = picture(COLOURS[row])
        assert name in index
        assert index[name] == (row, len(content))
        assert read_member(path, name) == content
        assert read_member(path, name, start=3, size=4) == content[3:7]
        assert read_file(f"{path.name}/{name}", root=path.parent) == content


def test_an_image_of_a_list_is_read_by_its_place(path):
    assert read_member(path, "several#2.0") == picture("blue")
    assert read_member(path, "several#2.1") == picture("grey")
    with pytest.raises(FileNotFoundError):
        read_member(path, "several#2.2")


@pytest.mark.parametrize("name", ["image#5", "image", "other#1", "image#-1", "image#1/a/b.png", "text#0", "1"])
def test_what_is_no_image_is_not_there(path, name):
    with pytest.raises(FileNotFoundError, match="no such image"):
        read_member(path, name)
    assert member_index(path).get(name) is None


def test_a_null_is_not_there_and_no_bytes_are_an_empty_file(tmp_path):
    path = write_parquet(tmp_path / "a.parquet", {"image": images([None, {"bytes": None}, {"bytes": b""}])})
    for row in (0, 1):
        with pytest.raises(FileNotFoundError):
            read_file(f"a.parquet/image#{row}", root=tmp_path)
    with pytest.raises(OSError, match="empty file"):
        read_file("a.parquet/image#2", root=tmp_path)
    assert read_member(path, "image#2") == b""


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("a.jpg", "image#7/a.jpg"),
        ("x/y/a b.jpg", "image#7/a b.jpg"),
        ("x\\a.jpg", "image#7/a.jpg"),
        (None, "image#7"),
        ("", "image#7"),
        ("..", "image#7"),
        ("a#1", "image#7"),
        ("a\nb.jpg", "image#7"),
        ("a" * 201, "image#7"),
    ],
)
def test_an_image_is_shown_with_its_own_name_where_that_is_plain(name, shown):
    assert member_name("image", 7, name=name) == shown
    assert own_name(shown) == shown.partition("/")[2]
    assert member_name("image", 7, item=2, name=name) == shown.replace("#7", "#7.2")


def test_a_file_that_was_written_again_is_read_again(path):
    assert read_member(path, "plain#0") == picture("red")
    WRITERS[path.suffix](path, {"plain": [b"other"]})
    assert read_member(path, "plain#0") == b"other"


@pytest.mark.parametrize("ending", WRITERS)
def test_a_file_that_is_not_there_is_named(tmp_path, ending):
    path = tmp_path / f"gone{ending}"
    with pytest.raises(DatasetError) as caught:
        member_index(path)
    assert str(caught.value) == f"{path} cannot be read: No such file or directory."
    with pytest.raises(FileNotFoundError):
        read_file(f"{path.name}/image#0", root=tmp_path)
