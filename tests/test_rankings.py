import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from clipret.errors import RunError
from clipret.rankings import ProtocolRankings, Ranking, Rankings, rankings_path, read_rankings, write_rankings
from clipret.retrieval import Ranks


def made(*, folds=2, heads=("zero-shot", "wise-ft 0.5", "trained")):
    generator = np.random.default_rng(0)

    def ranking(queries):
        offsets = np.cumsum([0, *generator.integers(1, 5, size=queries)])
        ranks = Ranks(generator.integers(1, 1 << 20, size=offsets[-1]), offsets, gallery=1 << 20)
        return Ranking(ranks, generator.integers(0, 9, size=queries))

    shapes = {way: [ranking(size + fold) for fold in range(folds)] for way, size in (("t2i", 7), ("i2t", 4))}
    ranked = {}
    for head in heads:
        ranked[head] = {
            way: tuple(
                Ranking(Ranks(generator.permutation(each.ranks.ranks), each.ranks.offsets, 1 << 20), each.images)
                for each in several
            )
            for way, several in shapes.items()
        }
    protocol = ProtocolRankings({"name": "é", "folds": folds, "digest": "0f"}, ranked)
    return Rankings({"path": "c.h5", "model": "ViT-B/32"}, (protocol, protocol))


def test_what_is_written_is_read_again(tmp_path):
    rankings, path = made(), tmp_path / "ranks.safetensors"
    write_rankings(path, rankings)
    found = read_rankings(path)
    assert found.cache == rankings.cache
    assert len(found.protocols) == 2
    for written, read in zip(rankings.protocols, found.protocols, strict=True):
        assert read.protocol == written.protocol
        assert list(read.heads) == list(written.heads)
        for head, directions in written.heads.items():
            for way, folds in directions.items():
                for before, after in zip(folds, read.heads[head][way], strict=True):
                    np.testing.assert_array_equal(after.ranks.ranks, before.ranks.ranks)
                    np.testing.assert_array_equal(after.ranks.offsets, before.ranks.offsets)
                    np.testing.assert_array_equal(after.images, before.images)
                    assert after.ranks.gallery == before.ranks.gallery
    assert [each.name for each in tmp_path.iterdir()] == ["ranks.safetensors"]


def test_ranks_stand_beside_their_metrics(tmp_path):
    assert rankings_path(tmp_path / "metrics.json") == tmp_path / "ranks.safetensors"
    assert rankings_path(tmp_path / "mine.json") == tmp_path / "mine.ranks.safetensors"


def error_of(path):
    with pytest.raises(RunError) as caught:
        read_rankings(path)
    return str(caught.value)


def test_no_file_says_how_to_get_one(tmp_path):
    path = tmp_path / "run" / "ranks.safetensors"
    assert error_of(path) == f"there is no {path}; measure the run with: clipret eval --head {path.parent}"


def test_a_file_of_another_kind_or_format_says_what_to_do(tmp_path):
    path = tmp_path / "ranks.safetensors"
    path.write_bytes(b"rubbish")
    assert error_of(path).startswith(f"{path} cannot be read (SafetensorError: ")
    assert error_of(path).endswith(f"; measure the run again with: clipret eval --head {tmp_path}")
    save_file({"x": np.zeros(1)}, path)
    assert error_of(path).startswith(f"{path} cannot be read (KeyError: 'clipret')")
    save_file({"x": np.zeros(1)}, path, metadata={"clipret": json.dumps({"format": 2})})
    assert error_of(path) == f"{path} is not of format 1; measure the run again with: clipret eval --head {tmp_path}"


def test_a_file_that_lost_its_end_is_refused(tmp_path):
    path = tmp_path / "ranks.safetensors"
    write_rankings(path, made())
    path.write_bytes(path.read_bytes()[:-10])
    assert "cannot be read" in error_of(path)
