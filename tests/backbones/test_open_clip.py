"""open_clip's models against open_clip itself: pixels, tokens, features, and what it refuses."""

import json
import pickle
import re
import shutil

import numpy as np
import open_clip
import pytest
import torch
from open_clip.model import get_model_preprocess_cfg
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image

from clipret.backbones import load_backbone, load_tokenizer
from clipret.backbones.library import LibraryBackbone
from clipret.backbones.openai import OpenAIClip
from clipret.errors import BackboneError
from tests.helpers.backbone_models import embedded, error_of, pictures, spread_of
from tests.helpers.open_clip_models import ARCHITECTURES, PREPROCESSING, library_model, write_open_clip
from tests.helpers.pair_models import hf_bert

CAPTIONS = ["a red bus", "two dogs on a very long beach at night", "x", "", "Curly ‘quotes’ &amp; ﬁgures", "word " * 90]
IDENTICAL = {"siglip": "image"}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Architecture -> the folder of a small random model."""
    root = tmp_path_factory.mktemp("open_clip")
    written = {}

    def folder(name):
        if name not in written:
            written[name] = write_open_clip(root / name, ARCHITECTURES[name])
        return written[name]

    return folder


# OpenAI's architecture, SigLIP's, one of timm's and one of the library's own. The other ones are left to CI, but for
# what the library itself computes.
SOME = ("openai-resnet", "siglip", "mobileclip", "coca")
SOME_NOW = pytest.mark.parametrize(
    "architecture", [pytest.param(name, marks=() if name in SOME else pytest.mark.ci) for name in ARCHITECTURES]
)


@pytest.fixture(params=ARCHITECTURES)
def architecture(request):
    return request.param


def loaded(folder, **settings):
    return load_backbone(f"open_clip:local-dir:{folder}", **settings)


def test_features_times_projection_are_the_librarys_own_embeddings(folders, architecture):
    folder = folders(architecture)
    backbone, model = loaded(folder), library_model(folder)
    pixels = pictures(3, side=backbone.image_side)
    tokens, _ = backbone.tokenize(CAPTIONS)
    transform = image_transform_v2(PreprocessCfg(**get_model_preprocess_cfg(model)), is_train=False)
    prepared = torch.stack([transform(Image.fromarray(picture.numpy())) for picture in pixels])
    with torch.no_grad():
        images = model.encode_image(prepared, normalize=False)
        texts = model.encode_text(open_clip.get_tokenizer(f"local-dir:{folder}")(CAPTIONS), normalize=False)
    for side, features, expected in (
        ("image", backbone.encode_image(pixels), images),
        ("text", backbone.encode_text(backbone.pad(tokens)), texts),
    ):
        assert spread_of(expected) > 2e-4
        assert error_of(embedded(backbone, side, features), expected) < 2e-5
        assert features.shape[1] == backbone.widths[side] == len(backbone.projections()[f"{side}/weight"])


@SOME_NOW
def test_the_comparison_before_the_first_batch_passes_and_sees_another_projection(folders, architecture):
    backbone = loaded(folders(architecture))
    pixels = pictures(2, side=backbone.image_side)
    ids = backbone.pad(backbone.tokenize(CAPTIONS[:3])[0])
    for side, inputs, encode in (("image", pixels, backbone.encode_image), ("text", ids, backbone.encode_text)):
        features = encode(inputs)
        backbone.require_exact(side, inputs=inputs, features=features)
        # The projection is out of the model again.
        torch.testing.assert_close(encode(inputs), features, rtol=0, atol=0)
        with pytest.raises(BackboneError, match=f"^{side} features of .* differ from"):
            backbone.require_exact(side, inputs=inputs, features=features * 1.5)


def test_a_side_without_a_projection_gets_the_identity(folders):
    backbone = loaded(folders("siglip"))
    projections = backbone.projections()
    np.testing.assert_array_equal(projections["image/weight"], np.eye(192, dtype=np.float32))
    assert "image/bias" not in projections
    assert projections["text/weight"].shape == (64, 192)
    assert projections["text/bias"].shape == (192,)


@pytest.mark.parametrize("projection", ["linear", "mlp"])
@pytest.mark.parametrize("pooler", ["mean_pooler", "cls_pooler"])
def test_text_towers_of_hugging_face(tmp_path, capfd, projection, pooler):
    """The matrix, or the last one of an MLP, behind a BERT; captions are cut to the longest under its mask."""
    folder = hf_bert(tmp_path / "model")
    (folder / "model.safetensors").unlink()
    text = {"hf_model_name": str(folder), "hf_tokenizer_name": str(folder), "context_length": 24}
    text |= {"hf_proj_type": projection, "hf_pooler_type": pooler}
    architecture = {**ARCHITECTURES["vit"], "custom_text": True, "text_cfg": text}
    backbone = loaded(write_open_clip(folder, architecture))
    assert backbone.widths["text"] == {"linear": 32, "mlp": 40}[projection]
    tokens, counts = backbone.tokenize(CAPTIONS)
    assert (counts > 24).tolist() == [False] * 5 + [True]
    expected = open_clip.get_tokenizer(f"local-dir:{folder}")(CAPTIONS)
    with torch.no_grad():
        texts = library_model(folder).encode_text(expected, normalize=False)
    assert error_of(embedded(backbone, "text", backbone.encode_text(backbone.pad(tokens))), texts) < 2e-5
    assert backbone.pad(tokens[:3]).shape[1] < 24
    assert re.fullmatch(r"BertTokenizer [0-9a-f]{12}, 24 tokens", backbone.details["tokenizer"])
    assert "longer than" not in capfd.readouterr().err


def test_crops_and_colours_are_those_of_the_folder(tmp_path, folders):
    folder, generator = folders("vit"), np.random.default_rng(0)
    for mode in ("squash", "shortest", "longest"):
        copy = shutil.copytree(folder, tmp_path / mode)
        settings = PREPROCESSING | {"resize_mode": mode, "interpolation": "bilinear"}
        config = {"model_cfg": ARCHITECTURES["vit"], "preprocess_cfg": settings}
        (copy / "open_clip_config.json").write_text(json.dumps(config))
        backbone = loaded(copy)
        assert (
            backbone.preprocessing
            == f"32 px, {mode}{' on 0' if mode == 'longest' else ''}, bilinear, mean 0.5/0.4/0.3, std 0.5/0.6/0.7"
        )
        transform = image_transform_v2(PreprocessCfg(**settings, size=32), is_train=False)
        for size, colours in (((45, 31), "RGB"), ((31, 77), "L"), ((32, 32), "RGBA"), ((3, 50), "P")):
            channels = {"RGB": 3, "RGBA": 4}.get(colours)
            shape = (size[1], size[0], channels) if channels else (size[1], size[0])
            image = Image.fromarray(generator.integers(0, 256, size=shape, dtype=np.uint8))
            image = image.convert(colours)
            cropped = torch.from_numpy(np.array(backbone.crop(image)))[None]
            torch.testing.assert_close(backbone._normalise(cropped)[0], transform(image), rtol=0, atol=1e-6)


def test_only_clips_own_resize_may_be_done_by_a_gpu(tmp_path, folders):
    assert not loaded(folders("vit")).resizes_as_clip
    assert not loaded(folders("openai-vit")).resizes_as_clip
    for name in ("vit", "openai-vit"):
        settings = PREPROCESSING | {"resize_mode": "shortest"}
        assert loaded(write_open_clip(tmp_path / name, ARCHITECTURES[name], preprocessing=settings)).resizes_as_clip


def test_tokens_and_counts_are_the_librarys(folders, architecture):
    folder = folders(architecture)
    backbone, tokenizer = loaded(folder), open_clip.get_tokenizer(f"local-dir:{folder}")
    tokens, counts = backbone.tokenize(CAPTIONS)
    expected = tokenizer(CAPTIONS)
    np.testing.assert_array_equal(
        [np.pad(ids.astype(np.int64), (0, expected.shape[1] - len(ids))) for ids in tokens], expected.numpy()
    )
    assert counts.tolist() == [len(tokenizer.encode(caption)) + 2 for caption in CAPTIONS]
    only = load_tokenizer(f"open_clip:local-dir:{folder}")
    assert only.context_length == backbone.context_length
    assert [only.is_too_long(caption) for caption in CAPTIONS] == [False] * 5 + [True]


@SOME_NOW
def test_causal_text_is_cut_to_the_longest_caption_and_other_text_is_not(folders, architecture):
    backbone = loaded(folders(architecture))
    ids = backbone.pad(backbone.tokenize(CAPTIONS[:3])[0])
    cut = architecture not in ("siglip", "coca", "mobileclip")
    assert ids.shape[1] == (11 if cut else backbone.context_length)
    whole = torch.nn.functional.pad(ids, (0, backbone.context_length - ids.shape[1]))
    torch.testing.assert_close(backbone.encode_text(ids), backbone.encode_text(whole), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["openai-vit", "openai-resnet"])
def test_openais_architecture_runs_through_our_own_towers(folders, tmp_path, name):
    """Bit for bit as the openai family computes the same weights."""
    backbone = loaded(folders(name))
    assert isinstance(backbone, OpenAIClip)
    rounded = {key: tensor.half().float() for key, tensor in library_model(folders(name)).state_dict().items()}
    checkpoint = tmp_path / "model.pt"
    torch.save(rounded, checkpoint)
    ours = load_backbone(str(checkpoint))
    folder = shutil.copytree(folders(name), tmp_path / "folder")
    (folder / "open_clip_model.safetensors").unlink()
    torch.save(rounded, folder / "open_clip_pytorch_model.bin")
    theirs = loaded(folder)
    pixels, ids = pictures(3, side=ours.image_side), ours.pad(ours.tokenize(CAPTIONS)[0])
    assert torch.equal(ours.encode_text(ids), theirs.encode_text(ids))
    # The folder says another mean.
    ours = OpenAIClip("ours", "0", "0", ours.model, theirs.preprocess)
    assert torch.equal(ours.encode_image(pixels), theirs.encode_image(pixels))


@pytest.mark.parametrize(
    "change",
    [
        {"quick_gelu": False},
        {"init_logit_bias": -10},
        {"vision_cfg": {"head_width": 32}},
        {"vision_cfg": {"no_ln_pre": True}},
        {"text_cfg": {"heads": 2}},
        {"text_cfg": {"pool_type": "last"}},
    ],
    ids=str,
)
def test_any_other_architecture_runs_as_the_library_has_it(tmp_path, change):
    architecture = json.loads(json.dumps(ARCHITECTURES["openai-vit"]))
    for key, value in change.items():
        architecture[key] = architecture[key] | value if isinstance(value, dict) else value
    backbone = loaded(write_open_clip(tmp_path / "model", architecture))
    assert isinstance(backbone, LibraryBackbone)
    pixels = pictures(2, side=32)
    backbone.require_exact("image", inputs=pixels, features=backbone.encode_image(pixels))


def test_float32_weights_are_not_rounded_to_float16(folders):
    backbone = loaded(folders("openai-vit"))
    weight = backbone.model.visual.conv1.weight
    assert not torch.equal(weight, weight.half().float())


def test_bfloat16_is_near_float32(folders, any_bfloat16):
    exact, rounded = loaded(folders("vit")), loaded(folders("vit"), precision="bf16")
    pixels = pictures(3, side=32)
    features = rounded.encode_image(pixels)
    assert features.dtype == torch.float32
    assert 1e-4 < error_of(features, exact.encode_image(pixels)) < 5e-2
    rounded.require_exact("image", inputs=pixels, features=features)
    # The projection keeps its own bits.
    np.testing.assert_array_equal(rounded.projections()["image/weight"], exact.projections()["image/weight"])


@SOME_NOW
def test_a_backbone_can_be_pickled(folders, architecture):
    backbone = loaded(folders(architecture))
    again = pickle.loads(pickle.dumps(backbone))
    pixels, ids = pictures(2, side=backbone.image_side), backbone.pad(backbone.tokenize(CAPTIONS[:2])[0])
    torch.testing.assert_close(again.encode_image(pixels), backbone.encode_image(pixels), rtol=0, atol=1e-6)
    torch.testing.assert_close(again.encode_text(ids), backbone.encode_text(ids), rtol=0, atol=1e-6)


@pytest.fixture
def registered(tmp_path, monkeypatch):
    """A small architecture that open_clip knows by name, with published weights under two tags."""
    architecture = {**ARCHITECTURES["openai-vit"], "quick_gelu": False}
    folder = write_open_clip(tmp_path / "published", architecture)
    registry = tmp_path / "configs"
    registry.mkdir()
    (registry / "Small-B-8.json").write_text(json.dumps(architecture))
    open_clip.add_model_config(registry)
    settings = {"file": str(folder / "open_clip_model.safetensors"), "mean": (0.1, 0.2, 0.3), "std": (0.5, 0.5, 0.5)}
    tags = {"quick": settings | {"quick_gelu": True, "resize_mode": "squash"}, "plain": settings}
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, "Small-B-8", tags)
    return folder


@pytest.mark.ci
def test_preprocessing_and_activation_come_with_the_tag(registered):
    quick, plain = (load_backbone(f"open_clip:Small-B-8/{tag}") for tag in ("quick", "plain"))
    assert quick.preprocessing == "32 px, squash, bicubic, mean 0.1/0.2/0.3, std 0.5/0.5/0.5"
    assert plain.preprocessing == "32 px, shortest, bicubic, mean 0.1/0.2/0.3, std 0.5/0.5/0.5"
    # With QuickGELU it is OpenAI's architecture.
    assert [type(backbone) for backbone in (quick, plain)] == [OpenAIClip, LibraryBackbone]
    pixels = pictures(2, side=32)
    assert error_of(quick.encode_image(pixels), plain.encode_image(pixels)) > 1e-3
    assert quick.details["architecture"] == "Small-B-8"


def test_a_checkpoint_of_ones_own_is_named_by_its_path(registered):
    backbone = load_backbone(f"open_clip:Small-B-8/{registered / 'open_clip_model.safetensors'}")
    assert isinstance(backbone, LibraryBackbone)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "open_clip:Small-B-8/quik",
            "--model open_clip:Small-B-8/quik: open_clip has no weights 'quik' of Small-B-8; expected one of quick, "
            "plain, or the path of a checkpoint: open_clip:Small-B-8/PATH.",
        ),
        (
            "open_clip:Smal-B-8/quick",
            "open_clip has no model 'Smal-B-8'; near it: Small-B-8",
        ),
        (
            "open_clip:local-dir:/nowhere",
            "there is no folder /nowhere; expected one as open_clip saves it, with open_clip_config.json.",
        ),
        (
            "open_clip:local-dir:/",
            "/ has no open_clip_config.json; expected a folder as open_clip saves it, with open_clip_config.json and "
            "open_clip_model.safetensors.",
        ),
        (
            "open_clip:Small-B-8",
            "--model open_clip:Small-B-8 names no weights of Small-B-8; expected one of quick, plain, or the path of a "
            "checkpoint: open_clip:Small-B-8/PATH.",
        ),
        (
            "openclip:ViT-B-32/openai",
            "--model openclip:ViT-B-32/openai: there is no family 'openclip:'; expected ",
        ),
    ],
)
def test_a_wrong_name_says_what_there_is(registered, name, message):
    with pytest.raises(BackboneError) as caught:
        load_backbone(name)
    assert str(caught.value).startswith(message)


def test_a_folder_without_weights_is_refused(tmp_path, folders):
    folder = shutil.copytree(folders("vit"), tmp_path / "model")
    (folder / "open_clip_model.safetensors").unlink()
    with pytest.raises(BackboneError, match="has no weights; expected open_clip_model"):
        loaded(folder)


def test_weights_of_another_architecture_are_refused_in_one_line(tmp_path, folders):
    folder = shutil.copytree(folders("vit"), tmp_path / "model")
    shutil.copy(folders("resnet") / "open_clip_model.safetensors", folder)
    with pytest.raises(BackboneError) as caught:
        loaded(folder)
    assert str(caught.value).startswith(f"open_clip cannot load open_clip:local-dir:{folder}: ")
    assert "\n" not in str(caught.value)


class Evil:
    """Code that a pickle would run."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return self.path.touch, ()


def test_no_code_in_a_pickle_is_run(tmp_path, folders):
    folder = shutil.copytree(folders("vit"), tmp_path / "model")
    (folder / "open_clip_model.safetensors").unlink()
    torch.save({"weights": Evil(tmp_path / "ran")}, folder / "open_clip_pytorch_model.bin")
    with pytest.raises(BackboneError, match=r"^the weights of .* are a pickle that holds more than tensors"):
        loaded(folder)
    assert not (tmp_path / "ran").exists()


def test_a_repository_that_cannot_be_reached_says_what_to_copy_where(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(BackboneError) as caught:
        load_backbone("open_clip:hf-hub:org/name", download_root=tmp_path)
    message = str(caught.value)
    assert message.startswith("cannot reach the Hugging Face hub for org/name (")
    assert "hf download org/name --local-dir FOLDER" in message
    assert "--model open_clip:local-dir:FOLDER" in message
    assert str(tmp_path) in message


def test_weights_that_cannot_be_downloaded_say_from_where_to_fetch_them(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(BackboneError) as caught:
        load_backbone("open_clip:ViT-B-16-SigLIP/webli", download_root=tmp_path)
    message = str(caught.value)
    assert message.startswith("cannot download the weights webli of ViT-B-16-SigLIP (")
    assert "download timm/ViT-B-16-SigLIP on a machine" in message
    assert message.endswith("(HF_HUB_OFFLINE=1).")


def test_a_missing_package_is_named_with_its_extra(monkeypatch):
    monkeypatch.setattr("clipret.backbones.packages.version_of", lambda package: None)
    with pytest.raises(BackboneError) as caught:
        load_backbone("open_clip:ViT-B-32/openai")
    assert str(caught.value) == (
        "--model open_clip:ViT-B-32/openai needs open_clip_torch; install with: pip install 'clipret[open-clip]'"
    )


def test_every_architecture_has_the_parts_that_the_family_reads():
    """The names in open_clip's own configs, so that a new release that has others is seen."""
    poolers = {open_clip.get_model_config(name)["vision_cfg"].get("timm_proj", "") for name in open_clip.list_models()}
    assert poolers <= {"", "linear", "mlp", "none", None}
