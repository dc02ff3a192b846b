"""The target onnx: graphs with everything inside, and files that describe the rest, used as a reader of them does."""

import importlib.util
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from PIL import Image

from clipret import EvalConfig, ExtractConfig, FeatureCache, TrainConfig, evaluate, extract, train
from clipret.backbones import load_backbone
from clipret.config import ExportConfig
from clipret.errors import ExportError
from clipret.exports.checkpoints import verification
from clipret.exports.checkpoints.source import open_source
from clipret.exports.checkpoints.stage import export
from clipret.exports.encoder import CacheEncoder
from clipret.exports.targets import onnx as target_onnx
from clipret.exports.targets import onnx_graphs, onnx_reader, preprocessing, tokenizer_files
from clipret.exports.targets.target import Source
from clipret.heads.linear import LinearHead
from tests.conftest import random_clip
from tests.helpers import own
from tests.helpers.backbone_models import real_clip
from tests.helpers.exported import CAPTIONS, embedded, extracted, open_here, random_head, saved

FILES = [
    "README.md",
    "clipret_export.json",
    "image.onnx",
    "merges.txt",
    "preprocessing.json",
    "reader.py",
    "text.onnx",
    "tokenizer.json",
    "vocab.json",
]


def small_cache(folder: Path, family: str = "transformer", **settings) -> Path:
    """Of a random CLIP with square projections where it is a transformer."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(random_clip(family, embedding=64).state_dict(), folder / "clip.pt")
    return extracted(folder, model=folder / "clip.pt", **settings)


def exported(cache: Path, head: Path, *, name: str = "out") -> Path:
    out = cache.parent / name
    export(ExportConfig(run=head, to="onnx", out=out, cache=cache))
    return out


@pytest.fixture(scope="module")
def vit(tmp_path_factory) -> tuple[Path, Path, Path]:
    """A cache, an adapter over it, and the folder that was written of it. Not to be changed."""
    cache = small_cache(tmp_path_factory.mktemp("vit"), prompt="a photo of {}", caption_clean="lower")
    head = saved(random_head(cache, kind="adapter"), cache)
    with pytest.MonkeyPatch.context() as patch:
        open_here(patch)
        return cache, head, exported(cache, head)


def reader_of(folder: Path):
    """Of the folder's own reader.py, as a user imports it."""
    spec = importlib.util.spec_from_file_location("copied_reader", folder / "reader.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.Reader(folder)


def images_of(cache: Path) -> list[Image.Image]:
    images = []
    for name in FeatureCache(cache).image_files:
        with Image.open(cache.parent / "photos" / name) as image:
            image.load()
            images.append(image)
    return images


@pytest.mark.ci
def test_the_folder_has_everything_and_embeds_as_the_cache_through_the_head(vit):
    cache, head, folder = vit
    assert sorted(path.name for path in folder.iterdir()) == FILES
    reader, captions = reader_of(folder), list(FeatureCache(cache).captions)
    np.testing.assert_allclose(reader.embed_texts(captions), embedded(cache, head, "text"), atol=1e-6, rtol=0)
    np.testing.assert_allclose(reader.embed_images(images_of(cache)), embedded(cache, head, "image"), atol=1e-6, rtol=0)


@pytest.mark.ci
def test_batches_and_lengths_do_not_change_a_row(vit):
    cache, _, folder = vit
    reader, images = reader_of(folder), images_of(cache)
    images = [*images, images[0]]
    alone = np.concatenate([reader.embed_images([image]) for image in images])
    assert len(images) == 7
    np.testing.assert_allclose(reader.embed_images(images), alone, atol=1e-6, rtol=0)
    alone = np.concatenate([reader.embed_texts([caption]) for caption in CAPTIONS])
    np.testing.assert_allclose(reader.embed_texts(list(CAPTIONS)), alone, atol=1e-6, rtol=0)
    graph = onnxruntime.InferenceSession(folder / "text.onnx")
    ids = onnx_reader.token_ids(["a dog"], reader._tokenizer, reader.text)
    padded = np.pad(ids, ((0, 0), (0, 77 - ids.shape[1])))
    np.testing.assert_allclose(
        *(graph.run(None, {"input_ids": values})[0] for values in (ids, padded)), atol=1e-6, rtol=0
    )
    assert reader.embed_images([]).shape == reader.embed_texts([]).shape == (0, 64)


@pytest.mark.ci
def test_names_types_and_shapes_are_those_that_the_description_says(vit):
    _, _, folder = vit
    about = json.loads((folder / "preprocessing.json").read_text())
    shapes = {"image": (["batch", 3, 64, 64], "tensor(float)"), "text": (["batch", "length"], "tensor(int64)")}
    for side, (shape, kind) in shapes.items():
        graph = onnxruntime.InferenceSession(folder / about[side]["graph"]["file"])
        [inputs], [outputs] = graph.get_inputs(), graph.get_outputs()
        assert (inputs.shape, inputs.type) == (shape, kind)
        assert inputs.name == about[side]["graph"]["input"][0]
        assert (outputs.name, outputs.shape) == (f"{side}_embeds", ["batch", 64])
        assert outputs.name == about[side]["graph"]["output"][0]
    assert (about["text"]["prompt"], about["text"]["caption_clean"]) == ("a photo of {}", "lower")


@pytest.mark.ci
def test_no_place_on_this_machine_is_in_the_graphs(vit):
    _, _, folder = vit
    for side in ("image", "text"):
        content = (folder / f"{side}.onnx").read_bytes()
        assert b".py" not in content
        assert str(Path(torch.__file__).parent).encode() not in content
        onnx.checker.check_model(folder / f"{side}.onnx")


FAULTS = {
    "transposed projection": ("text", lambda patch, source: transposed(source)),
    "gelu in place of quick gelu": ("image", lambda patch, source: with_gelu(patch, source)),
    "the wrong end of text": ("text", lambda patch, source: first_token(patch, source)),
}


def transposed(source: Source) -> Source:
    tensors = source.head.tensors
    return replace(source, head=source.head.like(tensors | {"text_weight": tensors["text_weight"].T.contiguous()}))


def with_gelu(patch, source: Source) -> Source:
    from clip.model import QuickGELU

    patch.setattr(QuickGELU, "forward", lambda module, x: torch.nn.functional.gelu(x))
    return source


def first_token(patch, source: Source) -> Source:
    patch.setattr(torch.Tensor, "argmax", lambda ids, dim: ids.sum(dim) * 0)
    return source


@pytest.mark.ci
@pytest.mark.parametrize("fault", FAULTS)
def test_a_wrong_graph_fails_the_verification(vit, tmp_path, monkeypatch, fault):
    cache, head, folder = vit
    open_here(monkeypatch)
    opened = open_source(ExportConfig(run=head, to="onnx", out=tmp_path / "x", cache=cache), encoder=True)
    sample = verification.take_sample(opened, root=None, scratch=tmp_path)
    wrong = shutil.copytree(folder, tmp_path / "wrong")
    arguments = {"sample": sample, "scratch": tmp_path}
    assert verification.verify(target_onnx.TARGET, "onnx", folder=wrong, **arguments)[0]["difference"] < 1e-6
    side, change = FAULTS[fault]
    with pytest.MonkeyPatch.context() as patch:
        onnx_graphs.write_graph(change(patch, opened.source), side, path=wrong / f"{side}.onnx")
    with pytest.raises(ExportError, match="onnxruntime gives other embeddings than clipret: they differ by"):
        verification.verify(target_onnx.TARGET, "onnx", folder=wrong, **arguments)


@pytest.mark.ci
def test_weights_that_are_too_many_for_one_file_are_beside_it(vit, tmp_path, monkeypatch):
    from torch.onnx._internal.exporter import _onnx_program

    cache, head, _ = vit
    monkeypatch.setattr(_onnx_program, "_LARGE_MODEL_THRESHOLD", 1 << 20)
    opened = open_source(ExportConfig(run=head, to="onnx", out=tmp_path / "x", cache=cache), encoder=True)
    onnx_graphs.write_graph(opened.source, "text", path=tmp_path / "text.onnx")
    assert (tmp_path / "text.onnx").stat().st_size < 1 << 20 < (tmp_path / "text.onnx.data").stat().st_size
    graph = onnxruntime.InferenceSession(tmp_path / "text.onnx")
    backbone, captions = opened.source.backbone, list(CAPTIONS)
    ids = backbone.pad(backbone.tokenize(captions)[0])
    expected = opened.source.head.embed_texts(backbone.encode_text(ids).clone()).detach().numpy()
    np.testing.assert_allclose(graph.run(None, {"input_ids": ids.numpy()})[0], expected, atol=1e-6, rtol=0)


@pytest.mark.ci
def test_a_head_of_one_s_own_is_in_the_graphs(tmp_path, monkeypatch):
    open_here(monkeypatch)
    cache, words = small_cache(tmp_path, "resnet"), own.write(tmp_path)
    config = TrainConfig(cache=cache, head=words["head"], epochs=1, batch_size=6, runs_dir=tmp_path / "runs")
    run = Path(train(config)["run"])
    result = export(ExportConfig(run=run, to="onnx", out=tmp_path / "out"))
    assert result["head"]["kind"] == "own"
    assert result["verified"][0]["difference"] < 1e-6


@pytest.mark.ci
def test_recall_from_the_graphs_and_the_files_is_that_of_eval(tmp_path, monkeypatch):
    """By numpy, of the emoji's test split: captions and PNG files alone; verified in a process of its own."""
    monkeypatch.chdir(tmp_path)
    extract(ExtractConfig(dataset="emoji", model="tiny-emoji", out="emoji.h5", workers=0, device="cpu"))
    run = Path(train(TrainConfig(cache="emoji.h5", epochs=2))["run"])
    export(ExportConfig(run=run, to="onnx", out="out"))
    cache, reader = FeatureCache("emoji.h5"), reader_of(Path("out"))
    test = np.flatnonzero(cache.image_splits == 2)
    captions = np.flatnonzero(np.isin(cache.caption_images, test))
    images = []
    for row in test:
        with Image.open(Path(cache.about["root"]) / cache.image_files[row]) as image:
            image.load()
            images.append(image)
    scores = reader.embed_texts([cache.captions[row] for row in captions]) @ reader.embed_images(images).T
    own_image = np.searchsorted(test, cache.caption_images[captions])
    results = evaluate(EvalConfig(cache="emoji.h5", head=run))["results"]["trained"]
    assert (scores.argmax(axis=1) == own_image).mean() == results["t2i"]["R@1"]
    assert (own_image[scores.argmax(axis=0)] == np.arange(len(test))).mean() == results["i2t"]["R@1"]


def encoder_of(name: str, *, background: str = "white", padded: bool = False) -> CacheEncoder:
    return CacheEncoder(load_backbone(name, precision="fp32"), background, padded, "{}", "none")


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("background", ["white", "clip"])
def test_the_description_of_images_gives_the_encoder_s_pixels(tmp_path, background, padded):
    torch.save(random_clip("transformer").state_dict(), tmp_path / "clip.pt")
    encoder = encoder_of(str(tmp_path / "clip.pt"), background=background, padded=padded)
    about = preprocessing.describe_images(encoder)
    assert preprocessing.is_described(about, crop=encoder.crop, by=onnx_reader.crop)
    wrong = about | {"resize": about["resize"] | {"interpolation": "bilinear"}}
    assert not preprocessing.is_described(wrong, crop=encoder.crop, by=onnx_reader.crop)
    # A square has no middle to find.
    assert preprocessing.is_described(about | {"crop": "down"}, crop=encoder.crop, by=onnx_reader.crop) is padded
    image = Image.new("RGB", (64, 64), (9, 99, 199))
    values = onnx_reader.image_values(image, about)
    by_clip = encoder.backbone.normalise(torch.from_numpy(np.asarray(image).copy())[None])[0]
    np.testing.assert_array_equal(values, by_clip.numpy())


@pytest.mark.parametrize("mode", ["longest", "shortest", "squash"])
def test_open_clip_s_modes_of_resizing_are_described(tmp_path, mode):
    from tests.helpers.open_clip_models import ARCHITECTURES, PREPROCESSING, write_open_clip

    settings = PREPROCESSING | {"resize_mode": mode, "fill_color": 7}
    folder = write_open_clip(tmp_path / "model", ARCHITECTURES["vit"], preprocessing=settings)
    encoder = encoder_of(f"open_clip:local-dir:{folder}", background="clip")
    about = preprocessing.describe_images(encoder)
    assert about["resize"]["to"] == {"squash": "both"}.get(mode, mode)
    assert preprocessing.is_described(about, crop=encoder.crop, by=onnx_reader.crop)


def test_a_crop_without_words_is_refused(tmp_path):
    torch.save(random_clip("transformer").state_dict(), tmp_path / "clip.pt")
    encoder = encoder_of(str(tmp_path / "clip.pt"))

    class Strange:
        image_side, resizes_as_clip, mean_colour, preprocessing = 64, False, (0, 0, 0), "64 px, swirled"
        name = "strange"
        crop = staticmethod(lambda image: image.convert("RGB").resize((64, 64)).rotate(90))

    strange = CacheEncoder(Strange(), "white", False, "{}", "none")
    source = Source(None, None, strange.backbone, encoder=strange)
    assert target_onnx.refusal(source) == (
        "preprocessing.json has no words for the preprocessing of strange (64 px, swirled)"
    )
    assert target_onnx.refusal(Source(None, None, encoder.backbone, encoder=encoder)) is None


def test_the_byte_pairs_give_clip_s_ids(tmp_path):
    """Of all captions of the emoji, and of Western and other text."""
    from clipret.backbones.clip_package import import_clip
    from clipret.datasets.emoji import english_names

    clip = import_clip()
    torch.save(random_clip("transformer").state_dict(), tmp_path / "clip.pt")
    backbone = load_backbone(str(tmp_path / "clip.pt"), precision="fp32")
    tokenizer, about = tokenizer_files.describe_texts(backbone)
    tokenizer_files.write_texts(backbone, tmp_path, tokenizer=tokenizer)
    texts = [name for names in english_names().values() for name in names] + list(tokenizer_files._PROBES)
    texts += [
        "\u4e2d\u6587 \u0440\u0443\u0441\u0441\u043a\u0438\u0439",
        "na\u00efve \u00c9COLE",
        "it's 12:30 &quot;so&quot;",
        "\u017fo",
    ]
    tokenizer = tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    ids = onnx_reader.token_ids(texts, tokenizer, about)
    expected = clip.tokenize(texts, truncate=True).numpy()
    np.testing.assert_array_equal(np.pad(ids, ((0, 0), (0, 77 - ids.shape[1]))), expected)
    # As another library reads the older files.
    from transformers import CLIPTokenizer

    other = CLIPTokenizer.from_pretrained(tmp_path)
    assert other(["two dogs"])["input_ids"][0] == clip.tokenize("two dogs")[0][:4].tolist()


OTHERS = {
    "hf:siglip": "reads the padding: L is 64",
    "hf:dual": "masked padding",
    "pair": "a text encoder of sentence-transformers with a prompt",
    "open_clip:coca": "a class token behind the text",
}


@pytest.mark.slow
@pytest.mark.parametrize("name", OTHERS)
def test_other_families_are_exported(name, tmp_path, pair_models):
    """What onnxruntime makes of captions and images is what the family's own library makes of them."""
    from clipret.backbones.loading import quiet
    from tests.helpers import hf_models, open_clip_models
    from tests.helpers import pair_models as pairs

    family, _, kind = name.partition(":")
    with quiet():
        if family == "hf":
            model = f"hf:{hf_models.write_model(tmp_path / 'model', kind)}"
        elif family == "open_clip":
            folder = open_clip_models.write_open_clip(tmp_path / "model", open_clip_models.ARCHITECTURES[kind])
            model = f"open_clip:local-dir:{folder}"
        else:
            model = pair_models.pair("timm_convnext", "minilm_dense")
    encoder = encoder_of(model)
    generator, widths = torch.Generator().manual_seed(0), encoder.backbone.widths
    head = LinearHead({f"{side}_weight": torch.randn(width, 24, generator=generator) for side, width in widths.items()})
    source = Source(head.requires_grad_(False), tmp_path, encoder.backbone, encoder=encoder)
    assert target_onnx.refusal(source) is None
    target_onnx.write(source, tmp_path)
    reader = reader_of(tmp_path)
    captions = [caption for caption in CAPTIONS if caption.isascii()]
    expected = head.embed_texts(encoder.text_features(captions).clone())
    np.testing.assert_allclose(reader.embed_texts(captions), expected, atol=1e-6, rtol=0)
    expected = head.embed_images(encoder.image_features(pairs.pictures()).clone())
    np.testing.assert_allclose(reader.embed_images(pairs.pictures()), expected, atol=1e-6, rtol=0)


@pytest.mark.ci
@pytest.mark.filterwarnings("ignore")
def test_what_torch_cannot_trace_is_one_line(vit, tmp_path):
    cache, head, _ = vit
    opened = open_source(ExportConfig(run=head, to="onnx", out=tmp_path / "x", cache=cache), encoder=True)

    class Untraceable(LinearHead):
        def embed_texts(self, features):
            return features * float(features.sum().item() > 0 and str(features.numpy())[0] == "x")

    source = replace(opened.source, head=Untraceable(opened.source.head.tensors))
    with pytest.raises(ExportError) as caught:
        onnx_graphs.write_graph(source, "text", path=tmp_path / "text.onnx")
    message = str(caught.value)
    assert message.startswith(
        f"torch cannot write the text side of {cache.parent / 'clip.pt'} with this head as an ONNX"
    )
    assert "\n" not in message


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ViT-B/32", "RN50"])
@pytest.mark.parametrize("kind", ["linear", "adapter"])
def test_at_real_size_embeddings_differ_by_rounding_alone(tmp_path, name, kind):
    torch.save(real_clip(name).state_dict(), tmp_path / "clip.pt")
    cache = extracted(tmp_path, model=tmp_path / "clip.pt")
    head = saved(random_head(cache, kind=kind), cache)
    result = export(ExportConfig(run=head, to="onnx", out=tmp_path / "out", cache=cache))
    assert result["verified"][0]["difference"] <= 1e-6
    shutil.rmtree(tmp_path / "out")


def test_captions_are_cleaned_as_the_training_cleaned_them():
    from clipret.config.choices import CAPTION_CLEANINGS
    from clipret.datasets.captions import clean_caption

    assert set(CAPTION_CLEANINGS) == {"none", "lower", "strip-punctuation"}
    for how in CAPTION_CLEANINGS:
        for caption in (*CAPTIONS, "  A \u00bfB\u2026  c-d\t"):
            about = {"caption_clean": how, "prompt": "a {}, {}"}
            cleaned = clean_caption(caption, how)
            assert onnx_reader.prompted(caption, about) == f"a {cleaned}, {cleaned}"
