import pytest

from clipret.datasets.containers import CONTAINERS, container_of, split_container
from tests.helpers.tars import write_tar


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("b.jpg", ("", "b.jpg")),
        ("a/b/c.jpg", ("a/b", "c.jpg")),
        ("x.tar/c.jpg", ("x.tar", "c.jpg")),
        ("a/x.tar/b/c.jpg", ("a/x.tar", "b/c.jpg")),
        ("x.target/c.jpg", ("x.target", "c.jpg")),
    ],
)
def test_a_file_is_in_a_folder_or_in_a_tar_file(name, parts):
    assert split_container(name) == parts
    assert (container_of(name) is CONTAINERS[".tar"]) == parts[0].endswith(".tar")


def test_a_part_of_a_member_is_read_without_the_rest(tmp_path):
    path = write_tar(tmp_path / "x.tar", [("a", b"0123456789"), ("b", b"next")])
    read = CONTAINERS[".tar"].read
    assert read(path, "a", start=8) == b"89"
    assert read(path, "a", start=2, size=3) == b"234"
    assert read(path, "a", start=8, size=100) == b"89"
    assert read(path, "a", start=11) == b""
