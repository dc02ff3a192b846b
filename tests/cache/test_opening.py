"""A forged file must not refer to other files, allocate memory or break later stages. Its checksums are valid."""

import json
import os
import subprocess
import sys

import h5py
import numpy as np
import pytest

from clipret import FeatureCache
from clipret.cache import open_writer
from clipret.errors import CacheDamagedError, CacheError, CacheFormatError
from tests.conftest import contents, write_cache
from tests.helpers.caches import MADE, cut, join, tampered, write_shards

REMEDY = "; the cache is damaged: delete it and extract again with: clipret extract --dataset made"


def refused(path) -> str:
    """The message on the file, which is the same for readers and writers."""
    before = path.read_bytes()
    with pytest.raises(CacheDamagedError) as reading:
        FeatureCache(path, allow_incomplete=True)
    with pytest.raises(CacheDamagedError) as writing, open_writer(path, contents()):
        pass
    assert str(reading.value) == str(writing.value)
    assert path.read_bytes() == before
    return str(reading.value).removeprefix(f"{path}: ").removesuffix(REMEDY)


def soft_link(file, folder):
    del file["image/split"]
    file["image/split"] = h5py.SoftLink("/image/state")


def external_link(file, folder):
    with h5py.File(folder / "other.h5", "w") as other:
        other["split"] = np.zeros(60, np.uint8)
    del file["image/split"]
    file["image/split"] = h5py.ExternalLink("other.h5", "/split")


def link_to_a_group(file, folder):
    with h5py.File(folder / "other.h5", "w") as other:
        file.copy("projection", other)
    del file["projection"]
    file["projection"] = h5py.ExternalLink("other.h5", "/projection")


def external_storage(file, folder):
    (folder / "secret.txt").write_bytes(b"SECRET " * 400)
    count = len(file["text/caption"])
    del file["text/caption"]
    file.create_dataset("text/caption", (count,), "S15", external=[(str(folder / "secret.txt"), 0, 15 * count)])


def external_storage_of_the_right_type(file, folder):
    (folder / "secret.txt").write_bytes(bytes(60))
    del file["image/state"]
    file.create_dataset("image/state", (60,), "u1", external=[(str(folder / "secret.txt"), 0, 60)])


def virtual_states(file, folder):
    with h5py.File(folder / "victim.h5", "w") as other:
        other["state"] = np.zeros(60, np.uint8)
    layout = h5py.VirtualLayout((60,), dtype="u1")
    layout[:] = h5py.VirtualSource(str(folder / "victim.h5"), "state", shape=(60,), dtype="u1")
    del file["image/state"]
    file.create_virtual_dataset("image/state", layout)


def filtered(file, folder):
    values = file["image/split"][:]
    del file["image/split"]
    file.create_dataset("image/split", data=values, compression="gzip")


def chunked(file, folder):
    del file["image/split"]
    file.create_dataset("image/split", (60,), "u1", chunks=(10,))


def never_written(file, folder):
    del file["image/split"]
    file.create_dataset("image/split", (60,), "u1")


def compact(file, folder):
    space, creation = h5py.h5s.create_simple((60,)), h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    creation.set_layout(h5py.h5d.COMPACT)
    del file["image/split"]
    h5py.h5d.create(file["image"].id, b"split", h5py.h5t.NATIVE_UINT8, space, creation)


def references(file, folder):
    del file["image/id"]
    file.create_dataset("image/id", (60,), dtype=h5py.ref_dtype)


def compound(file, folder):
    del file["image/split"]
    file["image/split"] = np.zeros(60, dtype=[("a", "u1"), ("b", "f4")])


def big_endian(file, folder):
    values = file["text/image"][:]
    del file["text/image"]
    file["text/image"] = values.astype(">i8")


def ascii_text(file, folder):
    del file["image/id"]
    file.create_dataset("image/id", data=[b"a"] * 60, dtype=h5py.string_dtype("ascii"))


def array_for_a_group(file, folder):
    del file["projection"]
    file["projection"] = np.zeros(3)


def group_for_an_array(file, folder):
    del file["image/split"]
    file.create_group("image/split")


def one_more(file, folder):
    file["image/extra"] = np.zeros(3)


def missing(file, folder):
    del file["text/tokens"]


def nothing_in_it(file, folder):
    for name in list(file["image"]):
        kind, shape = file["image"][name].dtype, file["image"][name].shape
        del file["image"][name]
        if name != "micro_batch":
            shape = (0, *shape[1:])
        file.create_dataset(f"image/{name}", data=np.zeros(shape, kind), dtype=kind)


def one_projection(file, folder):
    del file["projection/text/weight"]


def a_bias_alone(file, folder):
    width = file["projection/text/weight"].shape[1]
    del file["projection/text/weight"], file["projection/image/weight"]
    file["projection/text/bias"] = np.zeros(width, np.float32)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (soft_link, "/image/split is a link to elsewhere"),
        (external_link, "/image/split is a link to elsewhere"),
        (link_to_a_group, "/projection is a link to elsewhere"),
        (external_storage, "/text/caption is S15 (155,); expected text (155,)"),
        (external_storage_of_the_right_type, "/image/state is not stored in one piece in the file itself"),
        (virtual_states, "/image/state is not stored in one piece in the file itself"),
        (filtered, "/image/split is not stored in one piece in the file itself"),
        (chunked, "/image/split is not stored in one piece in the file itself"),
        (compact, "/image/split is not stored in one piece in the file itself"),
        (never_written, "/image/split declares 60 rows, more than fit in the file"),
        (references, "/image/id is references (60,); expected text (N,)"),
        (compound, "/image/split is [('a', 'u1'), ('b', '<f4')] (60,); expected uint8 (60,)"),
        (big_endian, "/text/image is >i8 (155,); expected int64 (155,)"),
        (ascii_text, "/image/id is ascii text (60,); expected text (N,)"),
        (array_for_a_group, "/projection is not a group"),
        (group_for_an_array, "/image/split is not an array"),
        (one_more, "it holds /image/extra, which no cache has"),
        (missing, "it lacks /text/tokens"),
        (nothing_in_it, "it holds no images"),
        (one_projection, "it has a projection of the image side alone"),
        (a_bias_alone, "it has /projection/text/bias without a weight"),
    ],
)
def test_objects_that_no_cache_has_are_refused_before_anything_is_read_or_written(change, message, cache_path):
    others = {}
    with tampered(cache_path) as file:
        change(file, cache_path.parent)
        others = {entry: entry.read_bytes() for entry in cache_path.parent.iterdir() if entry != cache_path}
    assert refused(cache_path) == message
    assert {entry: entry.read_bytes() for entry in others} == others


@pytest.mark.parametrize(
    ("rows", "chunks"), [(3 * 10**9, (1 << 20,)), (10**12, (1 << 20,)), (10**12, None), (2**63 - 1, (1 << 20,))]
)
def test_a_row_count_larger_than_the_file_allocates_no_memory(rows, chunks, cache_path):
    with tampered(cache_path) as file:
        for name in ("split", "id"):
            kind = file[f"image/{name}"].dtype
            del file[f"image/{name}"]
            file.create_dataset(f"image/{name}", (rows,), kind, chunks=chunks)
    assert cache_path.stat().st_size < 1 << 18
    message = "is not stored in one piece in the file itself" if chunks else f"declares {rows:,} rows,"
    assert refused(cache_path).startswith(f"/image/id {message}")


def attribute(name, value):
    def change(file):
        file.attrs[name] = value

    return change


def about(**changes):
    return attribute("about", json.dumps(MADE.about | changes))


def without(name, key):
    values = {"inputs": MADE.inputs, "about": MADE.about}[name]
    return attribute(name, json.dumps({other: value for other, value in values.items() if other != key}))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda file: file.attrs.__delitem__("about"), "attribute about is missing"),
        (attribute("about", "{"), "attribute about is not readable"),
        (attribute("about", "[" * 100_000), "attribute about is not readable"),
        (attribute("about", "[1]"), "attribute about is not readable"),
        (attribute("about", np.float64(3)), "attribute about is not readable"),
        (attribute("about", ["{}", "{}"]), "attribute about is not readable"),
        (attribute("inputs", "null"), "attribute inputs is not readable"),
        (attribute("fingerprint", 7), "attribute fingerprint is not readable"),
        (attribute("format", np.zeros(3)), "attribute format is not readable"),
        (attribute("format", 3), "attribute format is 3"),
        (without("about", "command"), "attribute about lacks command"),
        (without("about", "batch_size"), "attribute about lacks batch_size"),
        (without("inputs", "dataset"), "attribute inputs lacks dataset"),
        (about(model=None), "attribute about has model of another type"),
        (about(batch_size="16"), "attribute about has batch_size of another type"),
        (about(batch_size=True), "attribute about has batch_size of another type"),
        (about(batch_size=0), "attribute about has batch_size 0"),
        (about(remarks=[1]), "attribute about has remarks of another type"),
        (about(decoding={"cosine": {}}), "attribute about has decoding of another type"),
        (about(root=3), "attribute about has root of another type"),
        (
            attribute("inputs", json.dumps(MADE.inputs | {"prompt": "other {}"})),
            f"the fingerprint is {MADE.fingerprint[:12]}; its inputs give ",
        ),
    ],
)
def test_attributes_that_later_stages_could_not_use_are_refused(change, message, cache_path):
    with tampered(cache_path) as file:
        change(file)
    with pytest.raises(CacheDamagedError) as caught:
        FeatureCache(cache_path)
    assert caught.value.faults[0].startswith(message)
    assert "\n" not in str(caught.value)


@pytest.fixture
def in_shards(tmp_path):
    path = tmp_path / "made.h5"
    write_shards(path, cut(3))
    join(path, cut(3), merge=False)
    return path


def refer(path, source):
    """Move the images' features to another file."""
    with tampered(path) as file:
        del file["image/features"]
        layout = h5py.VirtualLayout((60, 24), dtype="f2")
        layout[:] = h5py.VirtualSource(str(source), "image/features", shape=(60, 24), dtype="f2")
        file.create_virtual_dataset("image/features", layout)


@pytest.mark.parametrize(
    "source",
    ["{folder}/other.h5", "other.h5", "made.h5.shards/../other.h5", "made.h5.shards/other.h5", "../x/0-of-1.h5"],
)
def test_features_in_files_that_are_no_shards_of_the_cache_are_refused(source, in_shards):
    folder = in_shards.parent
    write_cache(folder / "other.h5")
    source = source.format(folder=folder)
    refer(in_shards, source)
    with pytest.raises(CacheFormatError) as caught:
        FeatureCache(in_shards)
    assert str(caught.value) == (
        f"{in_shards}: /image/features refers to {source}, which is none of the cache's own shards in "
        f"{folder}/made.h5.shards; nothing was read from there. Delete the cache and extract again."
    )


def test_a_shard_that_is_a_link_to_elsewhere_is_refused(in_shards):
    shard = in_shards.parent / "made.h5.shards" / "1-of-3.h5"
    moved = shard.rename(in_shards.parent / "elsewhere.h5")
    shard.symlink_to(moved)
    with pytest.raises(CacheFormatError, match=r"refers to made.h5.shards/1-of-3.h5, which is none of the cache's own"):
        FeatureCache(in_shards)


def test_shards_of_another_cache_are_refused(in_shards, tmp_path):
    other = contents(inputs={**MADE.inputs, "background": "white"})
    (tmp_path / "made.h5.shards" / "1-of-3.h5").unlink()
    write_shards(in_shards, cut(3)[1:2], made=other)
    with pytest.raises(CacheFormatError, match=r"1-of-3.h5 does not match .*made.h5; delete both"):
        FeatureCache(in_shards)


def test_a_shard_is_not_accepted_as_a_cache_nor_a_cache_as_a_shard(in_shards):
    shard = in_shards.parent / "made.h5.shards" / "1-of-3.h5"
    with pytest.raises(CacheFormatError, match=r"1-of-3.h5 is not a cache but a shard of one; delete it"):
        FeatureCache(shard)


def test_raw_arrays_must_be_at_the_offsets_in_the_first_block(cache_path):
    """Otherwise a writer could be made to overwrite something else."""
    with tampered(cache_path):
        pass
    data = cache_path.read_bytes()
    with h5py.File(cache_path) as file:
        state, checksum = (file[f"image/{name}"].id.get_offset() for name in ("state", "checksum"))
    with h5py.File(cache_path, "r+") as file:
        # The states' data set now points to the first checksums.
        head = h5py.h5o.get_info(file["image/state"].id).addr
    at = data.index(int(state - 4096).to_bytes(8, "little"), head)
    moved = data[:at] + int(checksum - 4096).to_bytes(8, "little") + data[at + 8 :]
    cache_path.write_bytes(moved)
    reseal_as_before(cache_path)
    assert refused(cache_path) == "/image/state is not where the first block says"


def reseal_as_before(path):
    """Recompute the checksums of the extents in the first block."""
    from clipret.cache import seal

    with path.open("rb") as file:
        record = json.loads(file.read(seal.BLOCK).split(b"\n", 2)[2])
    spans = [(name, start, stop) for name, start, stop, _ in record["extents"]]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(seal, "_extents", lambda path, size: spans)
        seal.write_seal(path, command=record["command"])


@pytest.mark.parametrize(
    "extents",
    [
        [],
        [["image/state", 4096, 9000, None]],
        [["structure", 4096, 9000, None]],
        [["structure", 9000, 4096, 1]],
        [["structure", 4096, 1e300, 1]],
        [[1, 2]],
        "x",
        {"a": 1},
    ],
)
def test_a_first_block_that_makes_no_sense_is_refused(extents, cache_path):
    from zlib import crc32

    body = json.dumps({"format": 1, "command": None, "extents": extents}).encode().ljust(4096 - 26)
    block = b"clipret features\n" + b"%08x\n" % crc32(body) + body
    cache_path.write_bytes(block + cache_path.read_bytes()[4096:])
    with pytest.raises(CacheDamagedError, match=r"(its first block is not readable|bytes where .* were written)"):
        FeatureCache(cache_path)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="a file can be cut under a reader")
def test_a_cache_that_is_cut_short_while_it_is_read_is_one_line(cache_path):
    cache = FeatureCache(cache_path)
    os.truncate(cache_path, 30_000)
    with pytest.raises(CacheError) as caught:
        cache.read("text", np.arange(50))
    assert str(caught.value) == (
        f"{cache_path} cannot be read any more: the file was cut short. Check it with: clipret verify {cache_path}"
    )


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="a file can be cut under a reader")
@pytest.mark.ci
def test_a_training_whose_cache_is_cut_short_ends_with_a_line_and_no_signal(tmp_path):
    """Features are read from the file in every step, and the file is cut after the first epoch."""
    path = write_cache(tmp_path / "made.h5", contents(images=400))
    program = (
        "import os, sys; from clipret import cli; from clipret.training import record\n"
        "add = record.Record.add\n"
        "def cut(*words, **values): os.truncate(sys.argv[1], 20000); return add(*words, **values)\n"
        "record.Record.add = cut\n"
        "sys.exit(cli.main(['train', '--cache', sys.argv[1], '--features', 'disk', '--epochs', '3', '--quiet',\n"
        "                   '--runs-dir', sys.argv[2]]))\n"
    )
    child = subprocess.run(
        [sys.executable, "-c", program, path, tmp_path / "runs"], capture_output=True, text=True, check=False
    )
    assert child.returncode == 1
    assert child.stderr.splitlines()[-1].endswith(
        f"{path} cannot be read any more: the file was cut short. Check it with: clipret verify {path}"
    )
