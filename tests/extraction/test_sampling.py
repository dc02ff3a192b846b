"""Tokens of a last block, encoded again for a sample of rows."""

import shutil

import numpy as np
import pytest

from clipret import ExtractConfig, FeatureCache, VerifyConfig, extract, verify
from clipret.backbones import load_backbone
from clipret.cache import open_writer
from clipret.cache.taps import StoredTokens
from clipret.errors import UsageError
from clipret.extraction import sampling
from clipret.extraction.sampling import _token_errors


@pytest.fixture(scope="module")
def extracted(coco_root, checkpoints, tmp_path_factory):
    """(family, settings) -> the path of a cache with tokens, made when it is first asked for."""
    folder, paths = tmp_path_factory.mktemp("tapped"), {}

    def make(family="transformer", **settings):
        key = (family, *sorted(settings.items()))
        if key not in paths:
            paths[key] = folder / f"{len(paths)}.h5"
            values = {"dataset": "coco", "root": coco_root, "model": str(checkpoints[family]), "out": paths[key]}
            extract(ExtractConfig(**values, **{"tap": "both", "workers": 0, "device": "cpu"} | settings))
        return paths[key]

    return make


def faults(result):
    return {check["name"]: check["faults"] for check in result["checks"] if check["faults"]}


@pytest.mark.parametrize(
    ("family", "settings"),
    [
        ("transformer", {}),
        pytest.param("resnet", {"tap_dtype": "int8"}, marks=pytest.mark.ci),
        pytest.param("transformer", {"tap_dtype": "int8", "prompt": "a {}"}, marks=pytest.mark.ci),
        pytest.param("resnet", {"dtype": "float32", "tap": "image"}, marks=pytest.mark.ci),
    ],
)
def test_tokens_encoded_again_agree_with_the_stored_ones(extracted, family, settings):
    reports = []
    result = verify(VerifyConfig(extracted(family, **settings), sample=25, device="cpu"), on_progress=reports.append)
    assert result["sound"], faults(result)
    with_text = [("tokens of captions encoded again", 25)] if settings.get("tap", "both") == "both" else []
    assert [(check["name"], check["rows"]) for check in result["checks"][3:]] == [
        ("images encoded again", 25),
        ("tokens of images encoded again", 25),
        ("captions encoded again", 25),
        *with_text,
    ]
    phases = {"image rows", "text rows", "tokens of image rows", "images encoded again", "captions encoded again"}
    assert {report.phase for report in reports} == phases | ({"tokens of text rows"} if with_text else set())


def rewritten(path, target, change):
    """The cache with other tokens, whose sums are right: change(side, numbers (n, L, W) of all rows) -> numbers."""
    cache = FeatureCache(path)
    with open_writer(target, cache.contents) as writer:
        for side in ("image", "text"):
            count = len(cache.checksums[side])
            tokens = cache.read_tokens(side, np.arange(count))
            tap = StoredTokens(change(side, tokens), tokens.lengths, tokens.scales)
            if side == "image":
                problems = cache.problems
                writer.write_images(0, features=np.array(cache.image_features), problems=problems, tap=tap)
            else:
                writer.write_texts(0, features=np.array(cache.text_features), tokens=cache.tokens, tap=tap)
    return target


@pytest.mark.parametrize("side", ["image", "text"])
@pytest.mark.parametrize("dtype", ["float16", "int8"])
def test_tokens_of_other_rows_are_found_though_they_are_what_was_written(extracted, tmp_path, side, dtype):
    path = extracted("transformer", tap_dtype=dtype)

    def turned(of_side, tokens):
        return np.roll(tokens.values, tokens.lengths[0], axis=0) if of_side == side else tokens.values

    moved = rewritten(path, tmp_path / "moved.h5", turned)
    assert verify(VerifyConfig(moved))["sound"]
    result = verify(VerifyConfig(moved, sample=20, device="cpu"))
    what = "images" if side == "image" else "captions"
    assert set(faults(result)) == {f"tokens of {what} encoded again"}
    (check,) = [check for check in result["checks"] if check["faults"]]
    assert len(check["bad_rows"]) > 15
    assert check["faults"][0].startswith("encoded again, they differ by up to ")
    assert result["verdict"].startswith(f"{moved} is damaged: tokens of {what} encoded again; delete it")


def test_one_changed_token_among_many_is_enough(extracted, tmp_path):
    path = extracted("transformer")
    cache = FeatureCache(path)
    place, rows = int(cache.taps["text"].starts[8]) - 1, len(cache.captions)

    def change(side, tokens):
        values = tokens.values.copy()
        if side == "text":
            values[place] = np.roll(values[place], 1)
        return values

    changed = rewritten(path, tmp_path / "changed.h5", change)
    result = verify(VerifyConfig(changed, sample=rows, device="cpu"))
    assert [check["bad_rows"] for check in result["checks"] if check["faults"]] == [[7]]


def test_rows_that_are_damaged_are_reported_and_not_encoded_again(extracted, tmp_path):
    path = shutil.copy(extracted("transformer"), tmp_path / "torn.h5")
    cache = FeatureCache(path)
    for name, row in (("image/tap", 5), ("text/features", 2)):
        place = cache._places[name]
        with path.open("r+b") as file:
            file.seek(place.segments[0].offset + row * place.row_bytes)
            byte = file.read(1)
            file.seek(-1, 1)
            file.write(bytes([byte[0] ^ 1]))
    result = verify(VerifyConfig(path, sample=10_000, device="cpu"))
    assert set(faults(result)) == {"image rows", "text rows"}
    assert [check["rows"] for check in result["checks"]] == [
        None,
        len(cache.image_files),
        len(cache.captions),
        *[len(cache.image_files) - 1] * 2,
        *[len(cache.captions) - 1] * 2,
    ]


def test_an_encoder_without_such_tokens_is_refused(extracted, monkeypatch):
    path, model = extracted("transformer"), FeatureCache(extracted("transformer")).about["model"]

    def without_blocks(*arguments, **values):
        backbone = load_backbone(model)
        monkeypatch.setattr(type(backbone), "last_blocks", None)
        return backbone

    monkeypatch.setattr(sampling, "load_matching", without_blocks)
    with pytest.raises(UsageError) as caught:
        verify(VerifyConfig(path, sample=5, device="cpu"))
    assert str(caught.value) == (
        f"{path} has tokens of a last block, and those inside {model} (family openai) cannot be computed; name the "
        f"encoder that it was extracted with by --model."
    )


def test_rows_of_other_lengths_or_widths_are_infinitely_far():
    again = np.arange(24, dtype=np.float32).reshape(2, 3, 4) + 1
    values = np.concatenate([again[0, :2], again[1]])
    stored = StoredTokens(values, np.array([2, 3]))
    assert _token_errors(stored, again, lengths=np.array([2, 3])).tolist() == [0, 0]
    assert _token_errors(stored, again, lengths=np.array([3, 3])).tolist() == [np.inf, 0]
    assert _token_errors(stored, again[:, :, :3], lengths=np.array([2, 3])).tolist() == [np.inf, np.inf]
    values[3] *= 1.5
    errors = _token_errors(StoredTokens(values, np.array([2, 3])), again, lengths=np.array([2, 3]))
    np.testing.assert_allclose(errors, [0, 0.5])
    assert _token_errors(StoredTokens(values[:0], np.zeros(0, np.int64)), again[:0], lengths=np.zeros(0)).tolist() == []
