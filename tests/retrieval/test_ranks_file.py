import json
import re

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from clipret.errors import RunError
from clipret.retrieval.ranks import Ranks
from clipret.retrieval.ranks_file import (
    ProtocolRankings,
    Rankings,
    Trained,
    _digest,
    rankings_path,
    read_rankings,
    write_rankings,
)
from tests.helpers import system


def make_rankings(*, folds=2, heads=("zero-shot", "wise-ft 0.5", "trained")):
    generator = np.random.default_rng(0)

    def drawn(offsets, images):
        several = [np.sort(generator.choice(1 << 20, size, replace=False) + 1) for size in np.diff(offsets)]
        return Ranks(np.concatenate(several), offsets, gallery=1 << 20, images=images)

    def fold(queries):
        return np.cumsum([0, *generator.integers(1, 5, size=queries)]), generator.integers(0, 9, size=queries)

    shapes = {
        direction: [fold(size + number) for number in range(folds)] for direction, size in (("t2i", 7), ("i2t", 4))
    }
    ranked = {
        head: {direction: tuple(drawn(*of_fold) for of_fold in of_folds) for direction, of_folds in shapes.items()}
        for head in heads
    }
    leakage = {"checked": True, "trained_on": 0, "images": 9}
    about = {"split": "test", "images": 9, "captions": 20, "folds": folds, "precision": "fp32", "remarks": []}
    sides = {
        direction: {"queries": sum(len(images) for _, images in of_folds), "gallery": 1 << 20}
        for direction, of_folds in shapes.items()
    }
    protocols = [ProtocolRankings({"name": name, "digest": "0f", **about, **sides}, ranked, leakage) for name in "éa"]
    trained = Trained("runs/a/head.safetensors", "0f", "runs/a", {"lr": 1e-4, "seed": 3}, "f0", finished=True)
    return Rankings({"path": "c.h5", "fingerprint": "f0", "model": "ViT-B/32"}, tuple(protocols), trained)


def test_what_is_written_is_read_again(tmp_path):
    rankings, path = make_rankings(), tmp_path / "ranks.safetensors"
    write_rankings(path, rankings)
    again = read_rankings(path)
    assert (again.cache, again.trained) == (rankings.cache, rankings.trained)
    assert len(again.protocols) == 2
    for written, read in zip(rankings.protocols, again.protocols, strict=True):
        assert (read.protocol, read.leakage) == (written.protocol, written.leakage)
        assert list(read.heads) == list(written.heads)
        for head, directions in written.heads.items():
            for direction, folds in directions.items():
                for before, after in zip(folds, read.heads[head][direction], strict=True):
                    np.testing.assert_array_equal(after.ranks, before.ranks)
                    np.testing.assert_array_equal(after.offsets, before.offsets)
                    np.testing.assert_array_equal(after.images, before.images)
                    assert after.gallery == before.gallery
    assert [entry.name for entry in tmp_path.iterdir()] == ["ranks.safetensors"]


@pytest.mark.parametrize("scoring", ["nnn", "dis", "csls"])
def test_ranks_by_another_scoring_are_stored_beside_those_by_cosine(tmp_path, scoring):
    plain, path = ("zero-shot", "wise-ft 0.5", "trained"), tmp_path / "ranks.safetensors"
    rankings = make_rankings(heads=(*plain, *(f"{head} {scoring}" for head in plain)))
    write_rankings(path, rankings)
    (protocol, _), (written, _) = read_rankings(path).protocols, rankings.protocols
    assert list(protocol.heads) == list(written.heads)
    for head, directions in written.heads.items():
        np.testing.assert_array_equal(protocol.heads[head]["i2t"][0].ranks, directions["i2t"][0].ranks)


@pytest.mark.parametrize("heads", [("zero-shot nnn", "trained"), ("zero-shot", "trained", "trained mine")])
def test_ranks_of_unknown_heads_are_refused(tmp_path, heads):
    write_rankings(tmp_path / "ranks.safetensors", make_rankings(heads=heads))
    with pytest.raises(RunError, match="expected trained and zero-shot, the same for every protocol"):
        read_rankings(tmp_path / "ranks.safetensors")


def test_ranks_are_stored_next_to_their_metrics(tmp_path):
    assert rankings_path(tmp_path / "metrics.json") == tmp_path / "ranks.safetensors"
    assert rankings_path(tmp_path / "mine.json") == tmp_path / "mine.ranks.safetensors"


def error_of(path):
    with pytest.raises(RunError) as caught:
        read_rankings(path)
    return str(caught.value)


def test_no_file_is_left_to_the_caller(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_rankings(tmp_path / "ranks.safetensors")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[]", "it is a list; expected an object"),
        ("{}", "it is of format null; this clipret reads format 2"),
        ('{"format": 1}', "it is of format 1; this clipret reads format 2"),
        ('{"format": 2}', "it lacks the field cache"),
        ("[" * 100_000, "it nests too deep"),
        ("x", "it is not JSON: Expecting value, line 1, column 1"),
    ],
)
def test_a_file_of_another_kind_or_format_says_what_to_do(tmp_path, text, reason):
    path = tmp_path / "ranks.safetensors"
    save_file({"x": np.zeros(1)}, path, metadata={"clipret": text})
    assert error_of(path) == f"{path} cannot be read: {reason}; measure again with: clipret eval"


def test_the_error_for_another_file_says_what_to_do(tmp_path):
    path = tmp_path / "ranks.safetensors"
    path.write_bytes(b"rubbish")
    assert error_of(path) == (
        f"{path} cannot be read: it is no whole safetensors file: header too small; measure again with: clipret eval"
    )
    path.unlink()
    system.make_pipe(path)
    assert error_of(path) == f"{path} cannot be read: it is a pipe, not a file; measure again with: clipret eval"


def changed(path, edit):
    """Write ranks whose metadata and tensors `edit` changes, with a valid checksum."""
    write_rankings(path, make_rankings())
    with safe_open(path, framework="numpy") as file:
        about = json.loads(file.metadata()["clipret"])
        tensors = {name: file.get_tensor(name).copy() for name in file.keys()}  # noqa: SIM118
    edit(about, tensors)
    text = json.dumps(about, ensure_ascii=False)
    save_file(tensors, path, metadata={"clipret": text, "sha256": _digest(text, tensors)})


def set_protocol(**values):
    return lambda about, tensors: about["protocols"][0]["protocol"].update(values)


def put(name, values, dtype=np.int32):
    return lambda about, tensors: tensors.update({name: np.array(values, dtype=dtype)})


CONTRADICTIONS = {
    "no heads": (
        lambda about, tensors: about["protocols"][0].update(heads=[]),
        "heads is none; expected trained and zero-shot, the same for every protocol",
    ),
    "a head of another name": (
        lambda about, tensors: about["protocols"][1].update(heads=["zero-shot", "mine", "trained"]),
        "heads is zero-shot, mine, trained; expected trained and zero-shot, the same for every protocol",
    ),
    "heads that are numbers": (
        lambda about, tensors: about["protocols"][0].update(heads=[1]),
        "protocols.0.heads.0 is 1; expected text",
    ),
    "no protocols": (
        lambda about, tensors: about.update(protocols=[]),
        "protocols is empty, or names one twice",
    ),
    "a protocol twice": (
        lambda about, tensors: about["protocols"][0]["protocol"].update(name="a"),
        "protocols is empty, or names one twice",
    ),
    "more folds than there can be": (
        set_protocol(folds=10**18),
        "it has 48 tensors; expected 12,000,000,000,000,000,024",
    ),
    "folds in words": (set_protocol(folds="two"), "protocols.0.protocol.folds is 'two'; expected a whole number"),
    "a cache without a path": (lambda about, tensors: about["cache"].pop("path"), "cache lacks path"),
    "a head that is no object": (
        lambda about, tensors: about.update(trained=["x"]),
        "trained is a list; expected an object",
    ),
    "settings of another type": (
        lambda about, tensors: about["trained"]["config"].update(lr="fast"),
        "--lr is fast; expected a number",
    ),
    "leakage that is a list": (
        lambda about, tensors: about["protocols"][0].update(leakage=[]),
        "protocols.0.leakage is a list; expected an object",
    ),
    "a rank of 0": (
        lambda about, tensors: tensors["0/0/t2i/ranks/trained"].__setitem__(0, 0),
        "é t2i trained has ranks from 0 to {most} of 1,048,576 items",
    ),
    "a rank beyond the gallery": (
        put("1/1/i2t/gallery", [5], np.int64),
        "a i2t zero-shot has ranks from {least} to {most} of 5 items",
    ),
    "ranks that fall": (
        lambda about, tensors: tensors.update(
            {"0/0/i2t/ranks/zero-shot": tensors["0/0/i2t/ranks/zero-shot"][::-1].copy()}
        ),
        "é i2t zero-shot has ranks that are not ascending within a query",
    ),
    "ranks of another type": (
        put("0/0/t2i/ranks/trained", [1.0], np.float32),
        "0/0/t2i/ranks/trained is F32; expected I32",
    ),
    "a rank too many": (
        put("0/0/t2i/ranks/trained", [1] * 99),
        "0/0/t2i has images, offsets, gallery and ranks whose shapes do not match",
    ),
    "offsets that do not begin at 0": (
        lambda about, tensors: tensors["0/0/t2i/offsets"].__setitem__(0, 1),
        "é t2i zero-shot has offsets that do not split its ranks into queries",
    ),
    "a query of no ranks": (
        lambda about, tensors: tensors["0/0/t2i/offsets"].__setitem__(1, 0),
        "é t2i zero-shot has offsets that do not split its ranks into queries",
    ),
    "an image that is not there": (
        lambda about, tensors: tensors["0/0/t2i/images"].__setitem__(0, 9),
        "é t2i zero-shot has queries of images outside its gallery",
    ),
    "an image before the first": (
        lambda about, tensors: tensors["0/0/i2t/images"].__setitem__(0, -1),
        "é i2t zero-shot has queries of images outside its gallery",
    ),
    "other counts than are told": (
        lambda about, tensors: about["protocols"][0]["protocol"]["t2i"].update(queries=3),
        "é t2i zero-shot has 15 queries of 1,048,576 items; its protocol has 3 of 1,048,576",
    ),
    "a tensor that is not there": (
        lambda about, tensors: tensors.update({"x": tensors.pop("0/0/t2i/images")}),
        "0/0/t2i/images is not there; expected I32",
    ),
}


@pytest.mark.parametrize(("edit", "reason"), CONTRADICTIONS.values(), ids=CONTRADICTIONS.keys())
def test_ranks_that_contradict_themselves_are_refused_though_their_checksum_is_right(tmp_path, edit, reason):
    path = tmp_path / "ranks.safetensors"
    changed(path, edit)
    least, most = (re.search(rf"ranks {word} ([\d,]+)", error_of(path)) for word in ("from", r"from [\d,]+ to"))
    figures = {"least": least and least[1], "most": most and most[1]}
    assert error_of(path) == (f"{path} cannot be read: {reason.format(**figures)}; measure again with: clipret eval")


def test_a_changed_file_with_nothing_changed_is_read(tmp_path):
    changed(tmp_path / "ranks.safetensors", lambda about, tensors: None)
    assert len(read_rankings(tmp_path / "ranks.safetensors").protocols) == 2


def test_a_file_that_lost_its_end_is_refused(tmp_path):
    path = tmp_path / "ranks.safetensors"
    write_rankings(path, make_rankings())
    path.write_bytes(path.read_bytes()[:-10])
    assert "cannot be read" in error_of(path)


def test_a_bit_that_turned_in_the_ranks_is_refused(tmp_path):
    path = tmp_path / "ranks.safetensors"
    write_rankings(path, make_rankings())
    whole = path.read_bytes()
    start = 8 + int.from_bytes(whole[:8], "little")
    for place in np.random.default_rng(0).choice(np.arange(start, len(whole)), 50, replace=False):
        broken = bytearray(whole)
        broken[place] ^= 1 << (place % 8)
        path.write_bytes(broken)
        assert error_of(path).startswith(f"{path} cannot be read: its checksum does not match; measure again")


def test_edited_metadata_of_the_ranks_is_detected(tmp_path):
    path = tmp_path / "ranks.safetensors"
    write_rankings(path, make_rankings())
    whole = path.read_bytes()
    for before, after in ((b"ViT-B/32", b"ViT-B/16"), (b"zero-shot", b"zero-shop"), (b"runs/a", b"runs/b")):
        assert before in whole
        path.write_bytes(whole.replace(before, after))
        assert "cannot be read: " in error_of(path)
