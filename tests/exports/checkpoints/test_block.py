"""A trained last block, folded into the encoder: what was exported makes of pixels what the head makes of tokens."""

from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image

import clipret
from clipret import (
    EmbedConfig,
    EvalConfig,
    ExportConfig,
    ExtractConfig,
    FeatureCache,
    TrainConfig,
    embed,
    evaluate,
    export,
    extract,
    train,
)
from clipret.errors import ExportError, UsageError
from clipret.heads.base import clip_tensors
from clipret.heads.block import BlockHead
from clipret.retrieval import inputs as head_inputs
from clipret.retrieval.baseline import baseline_projections
from tests.helpers.backbone_models import SIZES, real_clip
from tests.helpers.exported import extracted
from tests.helpers.hf_models import write_model
from tests.helpers.open_clip_models import ARCHITECTURES, write_open_clip

# Folders are opened here; tests/exports/targets/test_target.py opens them in processes of their own.
pytestmark = pytest.mark.usefixtures("here")


@pytest.fixture(scope="module")
def runs(coco_root, checkpoints, tmp_path_factory):
    """(family, tune) -> the folder of a run, trained when it is first asked for."""
    folder, made = tmp_path_factory.mktemp("blocks"), {}

    def run(family, tune="all"):
        cache = folder / f"{family}.h5"
        if not cache.exists():
            settings = {"dataset": "coco", "root": coco_root, "model": str(checkpoints[family]), "out": cache}
            extract(ExtractConfig(**settings, tap="both", workers=0, device="cpu", val_fraction=0.2))
        if (family, tune) not in made:
            config = TrainConfig(
                cache, runs_dir=folder / "runs", head="block", tune=tune, epochs=2, lr=1e-3, keep="last"
            )
            made[family, tune] = Path(train(config)["run"])
        return made[family, tune], cache

    return run


@pytest.mark.parametrize(
    ("family", "tune", "to"),
    [
        ("transformer", "all", "clip"),
        pytest.param("resnet", "all", "open_clip", marks=pytest.mark.ci),
        pytest.param("resnet", "lora", "clip", marks=pytest.mark.ci),
        pytest.param("transformer", "lora", "open_clip", marks=pytest.mark.ci),
        pytest.param("transformer", "norms", "hf", marks=pytest.mark.ci),
    ],
)
def test_an_exported_block_computes_from_pixels_what_the_cache_has(runs, tmp_path, family, tune, to):
    run, cache = runs(family, tune)
    about = export(ExportConfig(run=run, to=to, out=tmp_path / "out"))
    assert about["head"]["kind"] == "block"
    # Against the tokens of the cache, through the head as it was trained; rounded to float16 there.
    assert max(about["cached"]["difference"].values()) < 1e-2
    assert all(way["difference"] <= way["tolerance"] for way in about["verified"] if way["opened"])
    if to == "clip":
        exported = torch.load(tmp_path / "out" / "clip.pt", weights_only=True)
        original = torch.load(FeatureCache(cache).about["model"])
        changed = {name for name, values in exported.items() if not torch.equal(values, original[name].float())}
        last = "visual.attnpool." if family == "resnet" else "visual.transformer.resblocks.1."
        assert any(name.startswith(last) for name in changed)
        assert not any(name.startswith(("visual.conv1", "visual.layer", "token_embedding")) for name in changed)


@pytest.mark.parametrize("dtype", ["float16", pytest.param("int8", marks=pytest.mark.ci)])
def test_tokens_may_be_as_far_from_the_encoders_as_their_type_says(checkpoints, tmp_path, dtype):
    """Though the features of the same cache are float32."""
    cache = extracted(tmp_path, model=checkpoints["transformer"], tap="both", tap_dtype=dtype)
    config = TrainConfig(cache, runs_dir=tmp_path / "runs", head="block", epochs=1, lr=1e-3, keep="last")
    about = export(ExportConfig(run=train(config)["run"], to="open_clip", out=tmp_path / "out"))
    furthest = max(about["cached"]["difference"].values())
    assert 5e-5 < furthest < (5e-2 if dtype == "int8" else 5e-3)


@pytest.mark.ci
@pytest.mark.parametrize(
    ("name", "tune", "to"),
    [
        ("open_clip:openai-vit", "all", "open_clip"),
        ("open_clip:openai-resnet", "lora", "open_clip"),
        ("hf:openai", "norms", "hf"),
    ],
)
def test_a_block_of_another_librarys_encoder_is_folded_back_into_it(tmp_path, name, tune, to):
    family, _, kind = name.partition(":")
    model = f"hf:{write_model(tmp_path / kind, kind)}" if family == "hf" else None
    model = model or f"open_clip:local-dir:{write_open_clip(tmp_path / kind, ARCHITECTURES[kind])}"
    cache = extracted(tmp_path, model=model, tap="both")
    config = TrainConfig(
        cache, runs_dir=tmp_path / "runs", head="block", tune=tune, epochs=4, lr=1e-3, batch_size=3, keep="last"
    )
    about = export(ExportConfig(run=train(config)["run"], to=to, out=tmp_path / "out"))
    assert max(about["cached"]["difference"].values()) < 5e-3
    opened = [way for way in about["verified"] if way["opened"]]
    assert opened
    assert all(way["difference"] <= way["tolerance"] for way in opened)


@pytest.fixture(scope="module")
def real_runs(tmp_path_factory):
    """Name of an OpenAI model -> a run on photographs, of a model of its sizes with random weights, and its cache."""
    folder, made = tmp_path_factory.mktemp("real"), {}

    def run(name):
        if name not in made:
            path = folder / f"{name.replace('/', '-')}.pt"
            torch.save(real_clip(name).state_dict(), path)
            cache = extracted(folder / path.stem, model=path, tap="both", background="clip")
            settings = {"head": "block", "epochs": 4, "batch_size": 3, "lr": 1e-4, "keep": "last"}
            made[name] = Path(train(TrainConfig(cache, runs_dir=folder / path.stem, **settings))["run"]), cache
        return made[name]

    return run


def embedded_by_clip(name, folder, images, captions):
    """By clip's own module, in float32: clip.load rounds weights to float16."""
    import clip
    from clip.clip import _transform
    from clip.model import CLIP

    model = CLIP(*SIZES[name])
    unknown = model.load_state_dict(torch.load(folder / "clip.pt", weights_only=True), strict=False)
    assert not unknown.missing_keys
    preprocess = _transform(model.visual.input_resolution)
    return _embedded(model.eval(), preprocess, tokenize=clip.tokenize, images=images, captions=captions)


def embedded_by_open_clip(name, folder, images, captions):
    model, preprocess = open_clip.create_model_from_pretrained(f"local-dir:{folder}")
    tokenize = open_clip.get_tokenizer(f"local-dir:{folder}")
    return _embedded(model.eval(), preprocess, tokenize=tokenize, images=images, captions=captions)


@torch.no_grad()
def _embedded(model, preprocess, *, tokenize, images, captions):
    pixels = torch.stack([preprocess(Image.open(path)) for path in images])
    unit = torch.nn.functional.normalize
    return {
        "image": unit(model.encode_image(pixels), dim=-1),
        "text": unit(model.encode_text(tokenize(captions)), dim=-1),
    }


@pytest.mark.slow
@pytest.mark.parametrize(("to", "embedded"), [("clip", embedded_by_clip), ("open_clip", embedded_by_open_clip)])
@pytest.mark.parametrize("name", ["ViT-B/32", "RN50"])
def test_of_real_sizes_a_library_computes_from_pixels_what_the_cached_path_has(real_runs, tmp_path, name, to, embedded):
    run, path = real_runs(name)
    export(ExportConfig(run=run, to=to, out=tmp_path / "out"))
    cache, head, plain = FeatureCache(path), clipret.load_head(run), BlockHead(own_tensors(path))
    root = Path(cache.about["root"])
    exported = embedded(name, tmp_path / "out", [root / file for file in cache.image_files], cache.captions)
    for side, result in exported.items():
        tokens = cache.read_tokens(side, np.arange(len(result))).torch()
        cached = head.embed_images(tokens) if side == "image" else head.embed_texts(tokens)
        with torch.no_grad():
            untrained = plain.embed_images(tokens) if side == "image" else plain.embed_texts(tokens)
        # Tokens of float16 on one side, none on the other.
        assert (result - cached).abs().max() < 1e-3
        assert (result - untrained).abs().max() > 5e-3, "training has moved the embeddings"


def own_tensors(path):
    """Of the encoder's own block and projections."""
    return clip_tensors(baseline_projections(FeatureCache(path)), names=BlockHead.names)


def test_a_zero_shot_block_export_is_the_checkpoint_itself(runs, coco_root, tmp_path):
    _, cache = runs("transformer")
    run = train(TrainConfig(cache, runs_dir=tmp_path / "runs", head="block", epochs=0))["run"]
    export(ExportConfig(run=run, to="clip", out=tmp_path / "out"))
    exported = torch.load(tmp_path / "out" / "clip.pt", weights_only=True)
    original = torch.load(FeatureCache(cache).about["model"])
    assert all(torch.equal(values, original[name].float()) for name, values in exported.items())


def test_a_run_opened_again_embeds_pixels_as_eval_does_tokens(runs, coco_root):
    run, path = runs("transformer", "lora")
    cache, model = FeatureCache(path), clipret.open_run(run)
    rows = np.arange(12)
    head = clipret.load_head(run)
    for side, inputs, embed_new, embed_stored in (
        ("image", [coco_root / cache.image_files[row] for row in rows], model.embed_images, head.embed_images),
        ("text", [cache.captions[row] for row in rows], model.embed_texts, head.embed_texts),
    ):
        stored = embed_stored(cache.read_tokens(side, rows).torch()).numpy()
        assert np.abs(embed_new(inputs) - stored).max() < 1e-2
        plain = clipret.zero_shot(path)
        untrained = plain.embed_images(inputs) if side == "image" else plain.embed_texts(inputs)
        assert np.abs(untrained - stored).max() > 2e-2
    assert evaluate(EvalConfig(head=run, resamples=0, allow_leak=True))["results"]["trained"]


def test_a_head_that_reads_tokens_refuses_features(runs):
    run, path = runs("transformer", "lora")
    cache, head = FeatureCache(path), clipret.load_head(run)
    with pytest.raises(UsageError) as caught:
        head.embed_images(cache.read("image", np.arange(3)))
    assert str(caught.value) == (
        "image rows are ndarray; this head of kind block reads tokens: give it cache.read_tokens('image', "
        "rows).torch()."
    )


def test_embeddings_are_those_of_the_tokens(runs, tmp_path, monkeypatch):
    run, path = runs("transformer", "lora")
    embed(EmbedConfig(path, head=run, out=tmp_path / "emb.npy"))
    with monkeypatch.context() as patch:
        # One image at a time, and a few captions.
        patch.setattr(head_inputs, "_BLOCK_BYTES", 4 << 10)
        embed(EmbedConfig(path, head=run, out=tmp_path / "again.npy"))
        again = clipret.load_head(run).embed_texts(FeatureCache(path).read_tokens("text", np.arange(30)).torch())
    for side in ("images", "texts"):
        np.testing.assert_array_equal(np.load(tmp_path / f"emb.{side}.npy"), np.load(tmp_path / f"again.{side}.npy"))
    np.testing.assert_array_equal(again, np.load(tmp_path / "emb.texts.npy")[:30])
    cache, head = FeatureCache(path), clipret.load_head(run)
    written = np.load(tmp_path / "emb.images.npy")
    expected = head.embed_images(cache.read_tokens("image", cache.rows("image")).torch()).numpy()
    np.testing.assert_allclose(written, expected, atol=1e-5)


def test_the_head_alone_has_no_form_that_others_read(runs, tmp_path):
    run, _ = runs("transformer", "lora")
    with pytest.raises(ExportError, match=r"its reader in numpy is for heads of kind .*, and this is of kind block"):
        export(ExportConfig(run=run, to="head", out=tmp_path / "out"))
