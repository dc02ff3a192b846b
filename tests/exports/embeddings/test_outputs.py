"""Killed at every write, every wait for the disk and every rename, and gone on with: the same bytes."""

import errno

import pytest

from clipret import EmbedConfig, embed
from clipret.errors import ExportError
from clipret.exports import EMBEDDING_FORMATS
from clipret.exports.embeddings.outputs import read_progress
from tests.conftest import StopAfter, contents, write_cache
from tests.helpers.caches import Killed
from tests.helpers.embedded import SteppedDisk, contents_of


@pytest.fixture
def small(tmp_path):
    """Twelve images: two blocks, and several of captions."""
    return write_cache(tmp_path / "small.h5", contents(images=9))


def whole(tmp_path, cache, ending, *, folder="whole") -> dict[str, bytes]:
    """The files of an uninterrupted embedding; the record names the cache alone."""
    (tmp_path / folder).mkdir()
    embed(EmbedConfig(cache=cache, out=tmp_path / folder / f"emb{ending}"))
    return contents_of(tmp_path / folder)


@pytest.mark.ci
@pytest.mark.parametrize("torn", [False, True])
@pytest.mark.parametrize("ending", EMBEDDING_FORMATS)
def test_killed_at_any_step_it_comes_to_the_same_bytes(tmp_path, small, ending, torn):
    expected = whole(tmp_path, small, ending)
    (tmp_path / "counted").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        disk = SteppedDisk(patch)
        embed(EmbedConfig(cache=small, out=tmp_path / "counted" / f"emb{ending}"))
    assert disk.steps > 10
    for step in range(disk.steps):
        folder = tmp_path / f"{step}"
        folder.mkdir()
        config = EmbedConfig(cache=small, out=folder / f"emb{ending}")
        with pytest.MonkeyPatch.context() as patch:
            SteppedDisk(patch, stop_at=step, torn=torn)
            with pytest.raises(Killed):
                embed(config)
        # What has its name is whole.
        left = contents_of(folder)
        assert all(left[name] == expected[name] for name in left.keys() & expected.keys()), step
        embed(config)
        assert contents_of(folder) == expected, step


def test_finished_blocks_are_not_computed_again(tmp_path, cache_path):
    config = EmbedConfig(cache=cache_path, out=tmp_path / "emb.npy")
    with pytest.raises(KeyboardInterrupt):
        embed(config, on_progress=StopAfter(4))
    assert read_progress(config.out)["blocks"] == 4
    assert not (tmp_path / "emb.images.npy").exists()
    reports = []
    embed(config, on_progress=reports.append)
    assert reports[0].done == 5 * 7
    assert not list(tmp_path.glob("*.part")) + list(tmp_path.glob("*.progress")) + list(tmp_path.glob("*.lock"))


def test_an_interrupted_parquet_leaves_nothing_and_starts_again(tmp_path, cache_path):
    config = EmbedConfig(cache=cache_path, out=tmp_path / "emb.parquet")
    with pytest.raises(KeyboardInterrupt):
        embed(config, on_progress=StopAfter(4))
    assert not list(tmp_path.glob("emb*"))
    embed(config)
    assert contents_of(tmp_path)["emb.parquet"] == whole(tmp_path, cache_path, ".parquet")["emb.parquet"]


@pytest.mark.parametrize("ending", EMBEDDING_FORMATS)
def test_a_full_disk_is_said_and_gone_on_from(tmp_path, small, ending):
    expected = whole(tmp_path, small, ending)
    (tmp_path / "full").mkdir()
    config = EmbedConfig(cache=small, out=tmp_path / "full" / f"emb{ending}")
    with pytest.MonkeyPatch.context() as patch:
        SteppedDisk(patch, stop_at=9, torn=True, error=OSError(errno.ENOSPC, "No space left on device"))
        with pytest.raises(ExportError) as caught:
            embed(config)
    kept = "nothing of it is kept" if ending == ".parquet" else "written blocks are kept"
    assert str(caught.value) == (
        f"cannot write {config.out}: No space left on device; {kept}. Once that is fixed, start the same command again."
    )
    embed(config)
    assert contents_of(config.out.parent) == expected


def test_the_interrupted_embeddings_of_other_rows_are_not_gone_on_with(tmp_path, cache_path):
    out = tmp_path / "emb.npy"
    with pytest.raises(KeyboardInterrupt):
        embed(EmbedConfig(cache=cache_path, out=out), on_progress=StopAfter(4))
    with pytest.raises(ExportError) as caught:
        embed(EmbedConfig(cache=cache_path, out=out, split="train"))
    assert str(caught.value) == (
        f"{out}.progress is of interrupted embeddings of another --split; write elsewhere, or delete it to start again."
    )


def test_parts_that_are_shorter_than_recorded_are_started_again(tmp_path, cache_path):
    expected = whole(tmp_path, cache_path, ".npz")
    (tmp_path / "cut").mkdir()
    config = EmbedConfig(cache=cache_path, out=tmp_path / "cut" / "emb.npz")
    with pytest.raises(KeyboardInterrupt):
        embed(config, on_progress=StopAfter(4))
    (tmp_path / "cut" / "emb.npz.part").write_bytes(b"short")
    embed(config)
    assert contents_of(tmp_path / "cut") == expected


def test_another_process_is_waited_for(tmp_path, cache_path):
    from clipret.machine.files import locked

    out = tmp_path / "emb.npy"
    with locked(tmp_path / "emb.npy.lock"), pytest.raises(ExportError) as caught:
        embed(EmbedConfig(cache=cache_path, out=out))
    assert str(caught.value) == f"another process is writing {out}; wait for it, or write elsewhere."
