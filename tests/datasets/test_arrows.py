import struct

import pyarrow
import pytest

from clipret.datasets.arrows import ArrowRows
from clipret.errors import DatasetError
from tests.helpers.hub import images, write_arrow

CELLS = [{"bytes": bytes([row]) * 1_000, "path": None} for row in range(10)]


def test_rows_of_all_batches_are_read(tmp_path):
    file = ArrowRows(write_arrow(tmp_path / "a.arrow", {"image": images(CELLS), "n": list(range(10))}, rows=3))
    assert file.num_rows == 10
    assert [file.cell("image", row).as_py() for row in (9, 0, 3, 2)] == [CELLS[row] for row in (9, 0, 3, 2)]
    assert [batch.num_rows for batch in file.batches(["n"])] == [3, 3, 3, 1]


def test_arrows_file_format_is_read_too(tmp_path):
    table = pyarrow.table({"image": images(CELLS)})
    with pyarrow.ipc.new_file(str(tmp_path / "a.arrow"), table.schema) as writer:
        writer.write_table(table, max_chunksize=4)
    file = ArrowRows(tmp_path / "a.arrow")
    assert [file.cell("image", row).as_py() for row in range(10)] == CELLS


def test_nothing_is_copied_into_memory(tmp_path):
    path = write_arrow(tmp_path / "a.arrow", {"image": images([{"bytes": bytes(1 << 20)}] * 50)})
    before = pyarrow.total_allocated_bytes()
    file = ArrowRows(path)
    assert len(file.cell("image", 40).as_py()["bytes"]) == 1 << 20
    assert pyarrow.total_allocated_bytes() - before < 1 << 20


def test_offsets_that_lead_out_of_the_file_are_not_followed(tmp_path):
    path = write_arrow(tmp_path / "a.arrow", {"image": images(CELLS)}, rows=10)
    content = path.read_bytes()
    offsets = b"".join(struct.pack("<i", 1_000 * row) for row in range(11))
    path.write_bytes(content.replace(offsets, offsets[:-8] + struct.pack("<ii", 1 << 30, 10_000)))
    with pytest.raises(DatasetError) as caught:
        ArrowRows(path).cell("image", 8)
    assert str(caught.value).startswith(f"{path} cannot be read as Arrow: ")


@pytest.mark.parametrize("damage", ["empty", "text", "cut"])
def test_a_damaged_file_is_one_clear_line(tmp_path, damage):
    path = write_arrow(tmp_path / "a.arrow", {"image": images(CELLS)}, rows=3)
    whole = path.read_bytes()
    path.write_bytes({"empty": b"", "text": b"image,caption\n" * 9, "cut": whole[: len(whole) // 2]}[damage])
    with pytest.raises(DatasetError) as caught:
        ArrowRows(path)
    message = str(caught.value)
    assert message.startswith(f"{path} cannot be read as Arrow: ")
    assert message.endswith("; save it again, or copy it again.")
    assert "\n" not in message
