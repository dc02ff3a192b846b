"""Extraction with the tokens that go into the last block."""

import numpy as np
import pytest
import torch

from clipret import ExtractConfig, FeatureCache, MergeConfig, VerifyConfig, extract, merge, verify
from clipret.cache import PENDING
from clipret.cache.inspection import inspect_cache
from clipret.cache.taps import block_arrays
from clipret.errors import BackboneError, CacheError, CacheMismatchError
from clipret.heads.base import clip_tensors
from clipret.heads.block import BlockHead
from clipret.heads.linear import LinearHead
from clipret.reporting.caches import info_sheets
from clipret.retrieval.inputs import embed_block, read_rows
from tests.conftest import StopAfter
from tests.helpers.caches import arrays
from tests.helpers.child_extraction import kill_extraction
from tests.helpers.hf_models import write_model
from tests.helpers.open_clip_models import ARCHITECTURES, write_open_clip


@pytest.fixture
def config(coco_root, checkpoints, tmp_path):
    def make(family="resnet", **changes):
        values = {"dataset": "coco", "root": coco_root, "model": str(checkpoints[family]), "out": tmp_path / "coco.h5"}
        values |= {"batch_size": 4, "workers": 0, "device": "cpu", "tap": "block"}
        return ExtractConfig(**(values | changes))

    return make


def embeddings(cache: FeatureCache) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """side -> zero-shot embeddings of the features, and of the tokens through the block."""
    names = BlockHead.names
    zero_shot = LinearHead(cache.projections).requires_grad_(False)
    block = BlockHead(clip_tensors(cache.projections | block_arrays(cache.blocks), names=names)).requires_grad_(False)
    pairs = {}
    for side in cache.taps:
        rows = cache.rows(side)
        features, tokens = (read_rows(cache, side, rows, kind=kind) for kind in ("features", "tokens"))
        plain = zero_shot.embed_images if side == "image" else zero_shot.embed_texts
        deep = block.embed_images if side == "image" else block.embed_texts
        pairs[side] = plain(features.float()), embed_block(deep, tokens.float())
    return pairs


@pytest.mark.parametrize("dtype", ["float16", "int8"])
def test_tokens_through_the_block_are_the_zero_shot_embeddings(config, family, dtype):
    settings = config(family, tap_dtype=dtype, dtype="float32")
    extract(settings)
    cache = FeatureCache(settings.out)
    for features, tokens in embeddings(cache).values():
        assert torch.cosine_similarity(features, tokens).min() > (0.999 if dtype == "int8" else 0.99999)
    assert set(cache.taps) == {"image", "text"}
    lengths = cache.taps["text"].lengths(np.arange(len(cache.captions)))
    assert np.array_equal(lengths, cache.tokens), "the tokens of a caption, start and end included"
    info = inspect_cache(settings.out)
    assert info["taps"]["image"]["bytes"] == 80 * cache.taps["image"].positions * (
        cache.taps["image"].width * (2 if dtype == "float16" else 1) + (0 if dtype == "float16" else 4)
    )
    assert info["taps"]["text"]["loss"]["cosine"]["min"] > 0.99
    (sheet,) = info_sheets(info)
    shown = {heading.text: value.text for heading, value in sheet.blocks[0]}
    assert shown["text tokens"].startswith(f"{info['taps']['text']['tokens']:,} of width 64, {dtype}: 0.")
    assert "cosine" in shown["image tokens"]


@pytest.mark.parametrize("tap", ["both", *(pytest.param(side, marks=pytest.mark.ci) for side in ("image", "text"))])
def test_everything_else_is_as_without_tokens(config, family, tap, tmp_path):
    extract(config(family, out=tmp_path / "plain.h5", tap="none"))
    extract(config(family, tap=tap))
    plain, tapped = arrays(tmp_path / "plain.h5"), arrays(tmp_path / "coco.h5")
    sides = ("image", "text") if tap == "both" else (tap,)
    # A row's checksum is of its notes too, of which the sum of its tokens is one.
    own = {"fingerprint", *(f"{side}/checksum" for side in sides)}
    assert {name for name in plain if plain[name] != tapped[name]} == own
    added = {f"{side}/{name}" for side in sides for name in ("tap", "tap_sum")} | {
        f"projection/{s}/block" for s in sides
    }
    assert tapped.keys() - plain.keys() == added | ({"text/tap_starts"} if "text" in sides else set())


@pytest.mark.ci
@pytest.mark.parametrize("dtype", ["float16", "int8"])
def test_an_interrupted_extraction_ends_with_the_same_bytes(config, dtype, tmp_path):
    extract(config("transformer", tap_dtype=dtype, out=tmp_path / "whole.h5"))
    for batches in (3, 30, 60):
        settings = config("transformer", tap_dtype=dtype, out=tmp_path / f"{batches}.h5")
        with pytest.raises(KeyboardInterrupt):
            extract(settings, on_progress=StopAfter(batches))
        extract(settings)
        assert arrays(settings.out) == arrays(tmp_path / "whole.h5")


@pytest.mark.ci
def test_a_killed_extraction_goes_on_to_the_same_bytes(config, children, tmp_path):
    extract(config("transformer", out=tmp_path / "whole.h5"))
    settings = config("transformer")
    kill_extraction(settings, children, batches=15)
    cache = FeatureCache(settings.out, allow_incomplete=True)
    assert not cache.complete
    extract(settings)
    assert arrays(settings.out) == arrays(tmp_path / "whole.h5")


@pytest.mark.ci
def test_workers_send_the_same_tokens(config, tmp_path):
    extract(config("transformer", out=tmp_path / "whole.h5"))
    extract(config("transformer", workers=2))
    assert arrays(tmp_path / "coco.h5") == arrays(tmp_path / "whole.h5")


@pytest.mark.parametrize("array", ["tap", "tap_scale"])
@pytest.mark.parametrize("side", ["image", "text"])
def test_changed_tokens_are_found_with_their_row(config, side, array):
    settings = config("transformer", tap_dtype="int8")
    extract(settings)
    cache = FeatureCache(settings.out)
    place = cache._places[f"{side}/{array}"]
    row = 7
    token = cache.taps["text"].starts[row] if side == "text" else row
    with settings.out.open("r+b") as file:
        file.seek(place.segments[0].offset + int(token) * place.row_bytes)
        byte = file.read(1)
        file.seek(-1, 1)
        file.write(bytes([byte[0] ^ 1]))
    cache = FeatureCache(settings.out)
    assert len(cache.read(side, np.arange(10))) == 10, "features are whole"
    with pytest.raises(CacheError) as caught:
        cache.read_tokens(side, np.arange(10))
    assert str(caught.value) == (
        f"{settings.out}: 1 tokens of {side} rows are not what was written to them: 7; the file is damaged: delete it "
        f"and extract again with: {cache.about['command']}"
    )
    assert len(cache.read_tokens(side, np.array([3, 9, 3]))) == 3
    result = verify(VerifyConfig(cache=settings.out))
    assert not result["sound"]
    faults = {check["name"]: check["faults"] for check in result["checks"]}
    assert faults[f"{side} rows"] == ["with tokens that were not what was written: 1 rows: 7"]


def test_another_type_or_other_sides_are_another_cache(config):
    extract(config(tap="image"))
    with pytest.raises(CacheMismatchError, match=r"tap: it has 'image', asked for 'image, text'"):
        extract(config())
    with pytest.raises(CacheMismatchError, match=r"tap: it has 'image', asked for None"):
        extract(config(tap="none"))


def test_a_cache_without_tokens_says_how_to_get_them(config):
    extract(config(tap="image"))
    cache = FeatureCache(config().out)
    with pytest.raises(CacheError) as caught:
        cache.read_tokens("text", np.arange(3))
    assert str(caught.value) == (
        f"{cache.path} has no text tokens, which a head of kind block reads; extract them to another --out with --tap "
        f"text."
    )


def test_a_merged_cache_has_the_embeddings_of_its_parts(config, coco_root, tmp_path):
    """The same pictures under two names: the second cache's, with other files and captions."""
    extract(config("transformer", dtype="float32"))
    other = tmp_path / "other"
    other.mkdir()
    lines = ["image,caption"]
    for number, path in enumerate(sorted((coco_root / "train2017").iterdir())[:9]):
        (other / f"{number}.jpg").write_bytes(path.read_bytes() + bytes([number]))
        lines += [f"{number}.jpg,picture {'very ' * number}{number}", f"{number}.jpg,another {number}"]
    (other / "table.csv").write_text("\n".join(lines) + "\n")
    settings = {"dataset": str(other / "table.csv"), "root": other, "out": tmp_path / "other.h5", "background": "clip"}
    extract(config("transformer", dtype="float32", **settings))
    paths = (config().out, tmp_path / "other.h5")
    merge(MergeConfig(caches=paths, out=tmp_path / "both.h5"))
    both, parts = embeddings(FeatureCache(tmp_path / "both.h5")), [embeddings(FeatureCache(path)) for path in paths]
    for side, (features, tokens) in both.items():
        assert torch.equal(tokens, torch.cat([part[side][1] for part in parts]))
        assert torch.cosine_similarity(features, tokens).min() > 0.99999
    assert verify(VerifyConfig(cache=tmp_path / "both.h5"))["sound"]


@pytest.fixture(scope="session")
def model_of(tmp_path_factory, pair_models):
    """open_clip:ARCHITECTURE, hf:KIND or pair -> what --model takes, written when it is first asked for."""
    root, names = tmp_path_factory.mktemp("families"), {}

    def write(name):
        family, _, kind = name.partition(":")
        if name not in names and family == "open_clip":
            names[name] = f"open_clip:local-dir:{write_open_clip(root / kind, ARCHITECTURES[kind])}"
        elif name not in names:
            names[name] = pair_models.pair() if family == "pair" else f"hf:{write_model(root / f'hf-{kind}', kind)}"
        return names[name]

    return write


@pytest.mark.ci
@pytest.mark.parametrize(
    "name",
    [
        "open_clip:openai-vit",
        *(pytest.param(n, marks=pytest.mark.ci) for n in ("open_clip:openai-resnet", "hf:openai")),
    ],
)
def test_openais_architecture_of_other_libraries_has_tokens_too(config, model_of, tmp_path, name):
    model = model_of(name)
    extract(config(model=model, dtype="float32", tap="none", out=tmp_path / "plain.h5"))
    extract(config(model=model, dtype="float32"))
    cache, plain = FeatureCache(config().out), FeatureCache(tmp_path / "plain.h5")
    assert set(cache.taps) == {"image", "text"}
    assert cache.blocks["image"].form == ("pool" if name.endswith("resnet") else "transformer")
    for side, (features, tokens) in embeddings(cache).items():
        assert torch.cosine_similarity(features, tokens).min() > 0.99999
        np.testing.assert_array_equal(cache.features(side), plain.features(side))
        centred = features - features.mean(dim=0)
        assert torch.linalg.vector_norm(centred, dim=1).min() > 1e-3, "rows differ"
    assert verify(VerifyConfig(cache=config().out, sample=10))["sound"]


@pytest.mark.parametrize(
    "name",
    [
        "open_clip:vit",
        "hf:clip",
        "pair",
        *(
            pytest.param(name, marks=pytest.mark.ci)
            for name in ("open_clip:resnet", "open_clip:siglip", "open_clip:convnext", "open_clip:coca", "hf:siglip")
        ),
    ],
)
def test_other_encoders_are_refused_before_anything_is_written(config, model_of, name):
    model = model_of(name)
    with pytest.raises(BackboneError) as caught:
        extract(config(model=model))
    assert str(caught.value) == (
        f"--tap is block, but the tokens inside {model} (family {name.partition(':')[0]}) cannot be kept; expected a "
        f"model of OpenAI's architecture, or --tap none."
    )
    assert not config().out.exists()


@pytest.mark.slow
@pytest.mark.parametrize(("family", "dtype"), [("transformer", "float16"), ("resnet", "int8")])
def test_twenty_kills_at_random_moments_lose_nothing(config, family, dtype, children, tmp_path):
    """Of one extraction, row by row; what is whole after a kill is not encoded again."""
    extract(config(family, tap_dtype=dtype, batch_size=1, out=tmp_path / "whole.h5"))
    settings = config(family, tap_dtype=dtype, batch_size=1)
    generator, before = np.random.default_rng(0), 0
    for kill in range(20):
        moment = {"batches": int(generator.integers(1, 9)), "delay": generator.uniform(0, 0.03)}
        kill_extraction(settings, children, **moment, pause=0.01)
        whole = whole_rows(settings.out)
        assert whole["image"] + whole["text"] >= before, f"kill {kill}"
        before = whole["image"] + whole["text"]
    assert not FeatureCache(settings.out, allow_incomplete=True).complete
    left = extract(settings)
    assert left["extracted_images"] == 80 - whole["image"]
    assert arrays(settings.out) == arrays(tmp_path / "whole.h5")


def whole_rows(path) -> dict[str, int]:
    """image, text -> how many rows are all there, tokens included, marked done or not."""
    cache, counts = FeatureCache(path, allow_incomplete=True), {}
    for side in ("image", "text"):
        rows = np.arange(len(cache.checksums[side]))
        stored, tokens = cache.stored(side, rows), cache.stored_tokens(side, rows)
        whole = ~stored.mismatches() & (stored.checksums != 0) & (tokens.sums() == stored.notes["tap_sum"])
        assert whole[stored.states != PENDING].all(), "what is marked done is whole"
        counts[side] = int(whole.sum())
    return counts
