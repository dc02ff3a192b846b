import os

import numpy as np
import pyarrow
import pytest

from clipret.datasets.parquets import ParquetRows
from clipret.datasets.row_files import member_index, read_member
from clipret.errors import DatasetError
from tests.helpers.hub import images, write_parquet

ROWS, WIDTH = 300, 50_000


@pytest.fixture
def contents():
    generator = np.random.default_rng(0)
    return [generator.bytes(WIDTH) for _ in range(ROWS)]


def written(path, contents, **options):
    cells = images([{"bytes": content, "path": f"{row}.jpg"} for row, content in enumerate(contents)])
    return write_parquet(path, {"image": cells, "n": list(range(len(contents)))}, **options)


@pytest.mark.parametrize("group", [7, 100, ROWS])
def test_rows_are_read_in_order_and_in_none(tmp_path, contents, group):
    path = written(tmp_path / "a.parquet", contents, row_group_size=group)
    file = ParquetRows(path)
    assert file.num_rows == ROWS
    order = [*range(ROWS), *np.random.default_rng(1).permutation(ROWS)[:20].tolist()]
    assert all(file.cell("image", row).as_py()["bytes"] == contents[row] for row in order)
    assert [file.cell("n", row).as_py() for row in (5, 250, 4)] == [5, 250, 4]


def test_one_image_takes_the_memory_of_a_row_group_not_of_the_file(tmp_path, contents):
    path = written(tmp_path / "a.parquet", contents, row_group_size=20, compression="snappy")
    before = pyarrow.total_allocated_bytes()
    file = ParquetRows(path)
    assert file.cell("image", 250).as_py()["bytes"] == contents[250]
    assert pyarrow.total_allocated_bytes() - before < 4 * 20 * WIDTH < ROWS * WIDTH / 3


def test_names_are_read_without_the_images(tmp_path, contents):
    path = written(tmp_path / "a.parquet", contents)
    batches = list(ParquetRows(path).batches(["n"], names_of="image"))
    assert [name for batch in batches for name in batch.column("image").field("path").to_pylist()] == [
        f"{row}.jpg" for row in range(ROWS)
    ]
    assert [field.name for field in batches[0].schema.field("image").type] == ["path"]


@pytest.mark.parametrize("damage", ["empty", "not-parquet", "cut"])
def test_a_damaged_file_is_one_clear_line(tmp_path, contents, damage):
    path = written(tmp_path / "a.parquet", contents[:3])
    whole = path.read_bytes()
    path.write_bytes({"empty": b"", "not-parquet": b"image,caption\n", "cut": whole[:-9]}[damage])
    with pytest.raises(DatasetError) as caught:
        member_index(path)
    message = str(caught.value)
    assert message.startswith(f"{path} cannot be read as Parquet: ")
    assert message.endswith("; make it again, or download it again.")
    assert "\n" not in message


def test_damage_in_one_row_group_leaves_the_others(tmp_path, contents):
    path = written(tmp_path / "a.parquet", contents, row_group_size=100, compression="zstd")
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle - 3 * WIDTH : middle + 3 * WIDTH] = os.urandom(6 * WIDTH)
    path.write_bytes(bytes(content))
    assert read_member(path, "image#5") == contents[5]
    assert read_member(path, "image#250") == contents[250]
    with pytest.raises(OSError, match="damaged in row group 1, at row 150"):
        read_member(path, "image#150")
