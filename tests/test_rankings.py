import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from clipret.errors import RunError
from clipret.rankings import ProtocolRankings, Ranking, Rankings, Trained, rankings_path, read_rankings, write_rankings
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
    leakage = {"checked": True, "trained_on": 0, "images": 9}
    protocol = ProtocolRankings({"name": "é", "folds": folds, "digest": "0f"}, ranked, leakage)
    trained = Trained("runs/a/head.safetensors", "0f", "runs/a", {"lr": 1e-4, "seed": 3}, "f0")
    return Rankings({"path": "c.h5", "model": "ViT-B/32"}, (protocol, protocol), trained)


def test_what_is_written_is_read_again(tmp_path):
    rankings, path = made(), tmp_path / "ranks.safetensors"
    write_rankings(path, rankings)
    found = read_rankings(path)
    assert (found.cache, found.trained) == (rankings.cache, rankings.trained)
    assert len(found.protocols) == 2
    for written, read in zip(rankings.protocols, found.protocols, strict=True):
        assert (read.protocol, read.leakage) == (written.protocol, written.leakage)
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


def test_no_file_is_left_to_the_caller(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_rankings(tmp_path / "ranks.safetensors")


def test_a_file_of_another_kind_or_format_says_what_to_do(tmp_path):
    path = tmp_path / "ranks.safetensors"
    path.write_bytes(b"rubbish")
    assert error_of(path).startswith(f"{path} cannot be read (SafetensorError: ")
    assert error_of(path).endswith("; measure again with: clipret eval")
    save_file({"x": np.zeros(1)}, path)
    assert error_of(path).startswith(f"{path} cannot be read (KeyError: 'clipret')")
    for told, error in (
        ("[]", "TypeError"),
        ("{}", "KeyError"),
        ("[" * 100_000, "RecursionError"),
        ("x", "JSONDecode"),
    ):
        save_file({"x": np.zeros(1)}, path, metadata={"clipret": told})
        assert error_of(path).startswith(f"{path} cannot be read ({error}")
    save_file({"x": np.zeros(1)}, path, metadata={"clipret": json.dumps({"format": 1})})
    assert error_of(path) == f"{path} is not of format 2; measure again with this clipret: clipret eval"


def test_a_file_that_lost_its_end_is_refused(tmp_path):
    path = tmp_path / "ranks.safetensors"
    write_rankings(path, made())
    path.write_bytes(path.read_bytes()[:-10])
    assert "cannot be read" in error_of(path)


def test_a_bit_that_turned_in_the_ranks_is_refused(tmp_path):
    path = tmp_path / "ranks.safetensors"
    write_rankings(path, made())
    whole = path.read_bytes()
    start = 8 + int.from_bytes(whole[:8], "little")
    for place in np.random.default_rng(0).choice(np.arange(start, len(whole)), 50, replace=False):
        broken = bytearray(whole)
        broken[place] ^= 1 << (place % 8)
        path.write_bytes(broken)
        assert error_of(path).startswith(
            f"{path} cannot be read (ValueError: its checksum does not match); measure again"
        )


def test_what_is_told_beside_the_ranks_is_not_to_be_edited(tmp_path):
    path = tmp_path / "ranks.safetensors"
    write_rankings(path, made())
    whole = path.read_bytes()
    for before, after in ((b"ViT-B/32", b"ViT-B/16"), (b"zero-shot", b"zero-shop"), (b"runs/a", b"runs/b")):
        assert before in whole
        path.write_bytes(whole.replace(before, after))
        assert "cannot be read (" in error_of(path)
