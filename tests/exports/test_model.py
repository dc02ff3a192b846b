"""Runs and caches opened as models: the very embeddings of the cached features, whatever is asked for together."""

import subprocess
import sys
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import clipret
from clipret import ExtractConfig, FeatureCache, TrainConfig, extract, open_run, train, zero_shot
from clipret.errors import CacheError, DatasetError, ExportError, HeadError, RunError, UsageError
from clipret.images import ImageReader
from clipret.images.padding import crop_of
from tests.helpers import own
from tests.helpers.hf_models import write_model
from tests.helpers.open_clip_models import ARCHITECTURES, write_open_clip

FAMILIES = ("transformer", "resnet", "open_clip", "siglip", "hf", "pair")
# Products of libraries' own encoders are not ours to choose.
BITS_ARE_OURS = ("transformer", "resnet")


@pytest.fixture(scope="module")
def cached(coco_root, checkpoints, pair_models, tmp_path_factory):
    """The cache of a family's small random model; changes by keyword."""
    folder, caches = tmp_path_factory.mktemp("models"), {}

    def name_of(family):
        if family in checkpoints:
            return str(checkpoints[family])
        if family == "pair":
            return pair_models.pair("hf_dinov2")
        if family == "hf":
            return f"hf:{write_model(folder / 'hf', 'clip')}"
        return (
            f"open_clip:local-dir:{write_open_clip(folder / family, ARCHITECTURES[family.replace('open_clip', 'vit')])}"
        )

    def make(family="transformer", **changes):
        key = family, *changes.items()
        if key not in caches:
            out = folder / f"{len(caches)}.h5"
            settings = {"batch_size": 16, "workers": 0, "device": "cpu", "dtype": "float32"} | changes
            extract(ExtractConfig(dataset="coco", root=coco_root, model=name_of(family), out=out, **settings))
            caches[key] = out
        return caches[key]

    return make


def run_of(cache, folder, **settings):
    values = {"epochs": 1, "init": "random", "batch_size": 32, "runs_dir": folder / "runs", "device": "cpu"} | settings
    return train(TrainConfig(cache=cache, **values))["run"]


def files_of(cache, rows):
    return [Path(cache.about["root"]) / cache.image_files[row] for row in rows]


def by_hand(model, side, rows):
    """Cached features through torch's own products, many at a time."""
    head = model.head.head
    function = head.embed_images if side == "image" else head.embed_texts
    with torch.no_grad():
        return function(torch.from_numpy(model.cache.read(side, np.arange(len(model.cache.checksums[side])))).float())[
            rows
        ].numpy()


@pytest.mark.parametrize("family", [FAMILIES[0], *(pytest.param(name, marks=pytest.mark.ci) for name in FAMILIES[1:])])
def test_captions_and_images_of_the_cache_are_embedded_as_their_cached_rows(cached, family):
    model = zero_shot(cached(family), device="cpu")
    texts = np.random.default_rng(0).permutation(len(model.cache.captions))
    embedded = model.embed_texts(model.cache.captions[row] for row in texts)
    images = np.array([7, 3, 21, 2, 50])
    seen = model.embed_images(files_of(model.cache, images))
    assert embedded.dtype == seen.dtype == np.float32
    pairs = (embedded, by_hand(model, "text", texts)), (seen, by_hand(model, "image", images))
    for ours, expected in pairs:
        if family in BITS_ARE_OURS:
            np.testing.assert_array_equal(ours, expected)
        np.testing.assert_allclose(ours, expected, atol=2e-6)
        assert np.abs(expected - expected[0]).max() > 1e-4, "rows that are all alike would hide a wrong one"


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("family", BITS_ARE_OURS)
def test_one_alone_has_the_bits_that_it_has_among_others(cached, family, dtype):
    model = zero_shot(cached(family, dtype=dtype), device="cpu")
    rows = [0, 9, 33, 120, 301]
    captions = [model.cache.captions[row] for row in rows]
    alone = np.concatenate([model.embed_texts([caption]) for caption in captions])
    np.testing.assert_array_equal(alone, by_hand(model, "text", rows))
    np.testing.assert_array_equal(model.embed_texts([*captions[::-1], "a", "an other one"])[:5][::-1], alone)
    alone = np.concatenate([model.embed_images([path]) for path in files_of(model.cache, [4, 40])])
    np.testing.assert_array_equal(alone, by_hand(model, "image", [4, 40]))


@pytest.mark.parametrize("settings", [{}, {"head": "adapter"}, {"train": "text"}], ids=["linear", "adapter", "text"])
def test_a_run_embeds_by_its_trained_head(cached, tmp_path, settings):
    model = open_run(run_of(cached(), tmp_path, **settings), device="cpu")
    rows = np.arange(40)
    ours = model.embed_texts([model.cache.captions[row] for row in rows])
    np.testing.assert_array_equal(ours, by_hand(model, "text", rows))
    assert np.abs(ours - zero_shot(cached(), device="cpu").embed_texts(model.cache.captions[:40])).max() > 1e-4


def test_a_head_of_the_users_own_embeds_too(cached, tmp_path, monkeypatch):
    run = run_of(cached(), tmp_path, head=own.write(tmp_path)["head"], init="clip")
    model = open_run(run, device="cpu")
    np.testing.assert_array_equal(model.embed_texts(model.cache.captions[:9]), by_hand(model, "text", np.arange(9)))
    own.forget(monkeypatch, tmp_path / "elsewhere")
    with pytest.raises(UsageError, match="clipret trust"):
        open_run(run)


def test_captions_are_cleaned_and_prompted_as_the_caches_were(cached):
    model = zero_shot(cached(prompt="a photo of {}.", caption_clean="strip-punctuation"), device="cpu")
    rows = np.arange(30)
    ours = model.embed_texts([model.cache.captions[row] for row in rows])
    np.testing.assert_array_equal(ours, by_hand(model, "text", rows))
    assert np.abs(ours - zero_shot(cached(), device="cpu").embed_texts(model.cache.captions[:30])).max() > 1e-4


def test_images_come_in_every_form_and_are_read_as_extraction_reads_them(cached, tmp_path):
    """Transparent, of 16 bits, turned by EXIF, of a palette: each has the pixels of extraction's own reader."""
    model = zero_shot(cached(background="white"), device="cpu")
    noise = np.random.default_rng(0).integers(0, 256, (40, 60, 4), dtype=np.uint8)
    turned = Image.Exif()
    turned[0x0112] = 6
    pictures = {
        "clear.png": Image.fromarray(noise, "RGBA"),
        "deep.png": Image.fromarray(noise[..., 0].astype(np.uint16) << 8),
        "palette.gif": Image.fromarray(noise[..., :3]).quantize(16),
    }
    for name, picture in pictures.items():
        picture.save(tmp_path / name)
    Image.fromarray(noise[..., :3]).save(tmp_path / "turned.jpg", exif=turned)
    names = [*pictures, "turned.jpg"]
    backbone = model.encoder.backbone
    reader = ImageReader(names, tmp_path, crop_of(backbone, padded=False), "white", backbone.image_side)
    pixels, problems, *_ = reader.read(range(len(names)))
    assert not problems
    features = backbone.encode_image(torch.cat([pixels, pixels]))[: len(names)]
    expected = model.head.embed_images(features.numpy())
    paths = [tmp_path / name for name in names]
    forms = {
        "paths": paths,
        "strings": [str(path) for path in paths],
        "bytes": [path.read_bytes() for path in paths],
        "PIL": [Image.open(BytesIO(path.read_bytes())) for path in paths],
        "mixed": [paths[0], Image.open(paths[1]), paths[2].read_bytes(), str(paths[3])],
    }
    for form, images in forms.items():
        np.testing.assert_array_equal(model.embed_images(images), expected, err_msg=form)
    array = noise[..., :3]
    np.testing.assert_array_equal(model.embed_images([array]), model.embed_images([Image.fromarray(array)]))


def test_a_bad_item_is_named(cached, tmp_path):
    model = zero_shot(cached(), device="cpu", batch_size=2)
    good = np.zeros((9, 9, 3), np.uint8)
    (tmp_path / "cut\x1b.png").write_bytes(b"no picture")
    for bad, message in [
        (tmp_path / "cut\x1b.png", r"^image 3 \(.*cut\\x1b.png\) cannot be used: not an image that PIL knows\.$"),
        ("nowhere.jpg", r"^image 3 \(nowhere.jpg\) cannot be used: file not found\.$"),
        (b"GIF89a", r"^image 3 cannot be used: "),
        (
            np.zeros((9, 9)),
            r"^image 3 cannot be used: an array \(9, 9\) of float64; expected pixels \(H, W, 3\) of uint8",
        ),
        (7, "^image 3 is int; expected a path"),
    ]:
        with pytest.raises(DatasetError, match=message):
            model.embed_images([good, good, good, bad])
    with pytest.raises(UsageError, match=r"^text 1 is int; expected a string"):
        model.embed_texts(["a", 1])
    for call in (lambda: model.embed_texts("two dogs"), lambda: model.embed_images("a.jpg")):
        with pytest.raises(UsageError, match="takes a list, and this is str"):
            call()


def test_nothing_gives_no_rows_and_tensors_come_when_asked_for(cached):
    model = zero_shot(cached(), device="cpu")
    assert model.embed_texts([]).shape == model.embed_images([]).shape == (0, model.width)
    tensor = model.embed_texts(["a", "b"], as_torch=True)
    assert isinstance(tensor, torch.Tensor)
    np.testing.assert_array_equal(tensor.numpy(), model.embed_texts(["a", "b"]))


def test_the_encoder_is_loaded_when_something_is_first_embedded(cached, monkeypatch):
    from clipret.exports import model as module

    loaded = []
    monkeypatch.setattr(module, "encoder_of", lambda *_, **__: loaded.append(1) or 1 / 0)
    model = open_model = zero_shot(cached(), device="cpu")
    assert (model.loaded, model.width, loaded) == (False, 32, [])
    assert "not loaded yet" in repr(open_model)
    assert "zero-shot" in repr(open_model)
    with pytest.raises(ZeroDivisionError):
        model.embed_texts(["a"])


@pytest.mark.ci
def test_opening_a_model_loads_no_encoder_library(cached):
    check = (
        "import sys, clipret\n"
        f"model = clipret.zero_shot({str(cached())!r}, device='cpu')\n"
        "loaded = {'clip', 'open_clip', 'transformers', 'timm'} & set(sys.modules)\n"
        "assert not loaded, loaded"
    )
    subprocess.run([sys.executable, "-c", check], check=True, timeout=300)


def test_an_iterable_is_read_a_batch_at_a_time(cached):
    model = zero_shot(cached(), device="cpu", batch_size=3)
    alive, most = set(), 0

    class Picture(bytes):
        def __del__(self):
            alive.discard(id(self))

    def pictures():
        nonlocal most
        buffer = BytesIO()
        Image.new("RGB", (20, 20), "red").save(buffer, "PNG")
        for _ in range(30):
            picture = Picture(buffer.getvalue())
            alive.add(id(picture))
            most = max(most, len(alive))
            yield picture

    assert len(model.embed_images(pictures())) == 30
    # A batch, the one before it, and the one that is read.
    assert 3 <= most <= 7


def test_what_cannot_be_opened_says_why_in_a_line(cached, tmp_path):
    with pytest.raises(RunError, match="there is no head"):
        open_run(tmp_path / "nowhere")
    with pytest.raises(CacheError):
        zero_shot(tmp_path / "nowhere.h5")
    with pytest.raises(UsageError, match="device is 'tpu'; expected auto, cpu or cuda"):
        zero_shot(cached(), device="tpu")
    for wrong in (0, 2.5, "3"):
        with pytest.raises(UsageError, match=f"batch_size is {wrong!r}; expected a whole number, 1 or more"):
            zero_shot(cached(), batch_size=wrong)
    with pytest.raises(HeadError, match="is not a readable safetensors file"):
        open_run(cached())
    clipret.write_cache(tmp_path / "ready.h5", images=np.eye(12), texts=np.eye(12), splits="train")
    with pytest.raises(ExportError, match="were imported, and nothing says how an encoder made them"):
        zero_shot(tmp_path / "ready.h5")
    cache = FeatureCache(cached())
    with pytest.raises(UsageError, match="weights"):
        zero_shot(cached(), model=cache.about["model"].replace("transformer", "resnet"), device="cpu").embed_texts(
            ["a"]
        )
