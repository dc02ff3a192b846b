"""Our towers and what they are made of, against clip's own modules."""

import copy
import functools
import sys

import numpy as np
import pytest
import torch
from torch.nn import functional

from clipret.backbones.kernels import (
    Arithmetic,
    Linear,
    Norm,
    OneQuery,
    QuickMLP,
    attend,
    choose_kernels,
    whole_float32,
)
from clipret.backbones.resnet import Convolution, ImageResNet
from clipret.backbones.towers import ImageTransformer, TextTransformer
from clipret.machine import torch_private
from tests.conftest import random_clip
from tests.helpers.backbone_models import (
    CAPTIONS,
    SIZES,
    backbone_of,
    embedded,
    error_of,
    lively_clip,
    pictures,
    real_clip,
    spread_of,
)

CPU = torch.device("cpu")
# How far from clip's values rounding may lead, relative to the largest.
ROUNDING = {torch.float32: 2e-6, torch.bfloat16: 3e-2, torch.float16: 2e-2}
HERE = choose_kernels(CPU, dtype=torch.float32, compiled=False)
HAS_BFLOAT16 = HERE == "torch" or choose_kernels(CPU, dtype=torch.bfloat16, compiled=False) == "oneDNN"


@pytest.fixture(params=["torch", "oneDNN"])
def kernels(request) -> str:
    if request.param == "oneDNN" and HERE != "oneDNN":
        pytest.skip("torch has no oneDNN here")
    return request.param


@pytest.fixture(params=["float32", "bfloat16"])
def arithmetic(request, kernels) -> Arithmetic:
    if request.param == "bfloat16" and kernels == "oneDNN" and not HAS_BFLOAT16:
        pytest.skip("the processor has no bfloat16")
    return Arithmetic(getattr(torch, request.param), kernels)


def halved(model: torch.nn.Module) -> torch.nn.Module:
    """The model as clip loads it on CUDA."""
    from clip.model import convert_weights

    model = copy.deepcopy(model)
    convert_weights(model)
    return model


@pytest.mark.parametrize(
    ("device", "dtype", "compiled"),
    [("cuda", torch.float32, False), ("cpu", torch.float16, False), ("cpu", torch.float32, True)],
)
def test_onednn_is_for_the_cpu_without_float16_or_a_compiler(device, dtype, compiled):
    assert choose_kernels(torch.device(device), dtype=dtype, compiled=compiled) == "torch"


def test_without_onednn_or_on_another_processor_torch_multiplies(monkeypatch):
    import platform

    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    assert choose_kernels(CPU, dtype=torch.float32, compiled=False) == "torch"
    monkeypatch.undo()
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert choose_kernels(CPU, dtype=torch.float32, compiled=False) == "torch"
    monkeypatch.undo()
    monkeypatch.setattr(torch_private, "why_public", lambda name, **_: "differs" if name == "convolution" else None)
    assert choose_kernels(CPU, dtype=torch.float32, compiled=False) == "torch"


@torch.inference_mode()
def test_a_linear_layer_and_its_silu_are_those_of_torch(arithmetic):
    layer, x = torch.nn.Linear(48, 80), torch.randn(3, 5, 48)
    cast = x.to(arithmetic.dtype)
    expected = layer(x)
    result = Linear(layer.weight, layer.bias, arithmetic=arithmetic)(cast)
    assert error_of(result, expected) < ROUNDING[arithmetic.dtype]
    result = Linear(layer.weight, layer.bias, arithmetic=arithmetic, silu=True)(cast)
    assert error_of(result, functional.silu(expected)) < ROUNDING[arithmetic.dtype]
    result = Linear(layer.weight, None, arithmetic=arithmetic)(cast)
    assert error_of(result, expected - layer.bias) < ROUNDING[arithmetic.dtype]


@torch.inference_mode()
def test_the_mlp_with_its_factors_in_the_weights_is_clips(arithmetic):
    mlp, x = random_clip("transformer").transformer.resblocks[0].mlp, torch.randn(7, 64) * 3
    assert error_of(QuickMLP(mlp, arithmetic=arithmetic)(x.to(arithmetic.dtype)), mlp(x)) < ROUNDING[arithmetic.dtype]


@torch.inference_mode()
def test_the_mlp_and_the_norm_of_float16_have_clips_own_bits():
    block = halved(random_clip("transformer")).transformer.resblocks[0]
    half, x = Arithmetic(torch.float16, "torch"), (torch.randn(7, 64) * 3).half()
    assert torch.equal(QuickMLP(block.mlp, arithmetic=half)(x), block.mlp(x))
    norm = Norm(block.ln_1, arithmetic=half)
    assert norm._type == torch.float16
    assert error_of(norm(x), block.ln_1(x)) < 1e-3
    # Weights that float16 cannot hold are not rounded to it.
    block.ln_1.weight += 1e-5
    norm = Norm(block.ln_1, arithmetic=half)
    assert norm._type == torch.float32
    assert torch.equal(norm(x), block.ln_1(x))


@torch.inference_mode()
def test_attention_is_a_softmax_over_scaled_products():
    query, key, value = torch.randn(3, 2, 5, 12).unbind(0)
    expected = torch.zeros(2, 5, 12)
    for row in range(2):
        for head in (slice(0, 4), slice(4, 8), slice(8, 12)):
            scores = query[row, :, head] @ key[row, :, head].T / 2
            scores += torch.full((5, 5), -torch.inf).triu(1)
            expected[row, :, head] = scores.softmax(dim=1) @ value[row, :, head]
    assert error_of(attend(query, key, value, heads=3, is_causal=True), expected) < 2e-6


@torch.inference_mode()
def test_attention_of_one_query_is_that_row_of_the_whole(arithmetic):
    torch.manual_seed(0)
    whole = torch.nn.MultiheadAttention(48, 3, batch_first=True)
    whole.in_proj_bias.normal_()
    ours = OneQuery(whole.in_proj_weight, whole.in_proj_bias, heads=3, arithmetic=arithmetic)
    x, at = torch.randn(4, 9, 48), torch.tensor([0, 8, 3, 3])
    seen = torch.arange(9) <= at[:, None]
    rows = torch.arange(4)
    for mask in (None, seen):
        # Not of the attention's output layer: that comes later.
        whole.out_proj.weight.copy_(torch.eye(48))
        hidden = None if mask is None else ~mask
        expected = whole(x, x, x, key_padding_mask=hidden, need_weights=False)[0][rows, at] - whole.out_proj.bias
        result = ours(x.to(arithmetic.dtype), at=at, seen=mask)
        assert error_of(result, expected) < ROUNDING[arithmetic.dtype]


@torch.inference_mode()
@pytest.mark.parametrize("add", [False, True])
def test_a_convolution_holds_its_norm(arithmetic, add):
    visual = random_clip("resnet").visual
    convolution, norm = visual.layer1[0].conv2, visual.layer1[0].bn2
    ours = Convolution(convolution, norm=norm, side=10, arithmetic=arithmetic)
    x = torch.randn(3, convolution.in_channels, 10, 10).to(memory_format=torch.channels_last)
    other = torch.randn(3, convolution.out_channels, 10, 10).to(memory_format=torch.channels_last)
    expected = torch.relu(norm(convolution(x)) + (other if add else 0))
    arguments = {"add": other.to(arithmetic.dtype, copy=True)} if add else {}
    assert error_of(ours(x.to(arithmetic.dtype), **arguments), expected) < ROUNDING[arithmetic.dtype]


def towers(model: torch.nn.Module, arithmetic: Arithmetic):
    kind = ImageTransformer if hasattr(model.visual, "proj") else ImageResNet
    normaliser = backbone_of(model)._normaliser
    image = kind(model.visual, normalise=normaliser, arithmetic=arithmetic)
    return image, TextTransformer(model, arithmetic=arithmetic)


@torch.inference_mode()
@pytest.mark.parametrize("count", [1, 2, 7])
def test_a_tower_gives_clips_values_at_any_batch_size(family, arithmetic, count):
    import clip

    model = lively_clip(family)
    backbone, (image, text) = backbone_of(model), towers(model, arithmetic)
    pixels = pictures(count, side=64)
    limit = 1e-5 if arithmetic.dtype == torch.float32 else 5e-2
    expected = model.encode_image(backbone.normalise(pixels))
    assert count == 1 or spread_of(expected) > 0.05
    assert error_of(embedded(backbone, "image", image(pixels)), expected) < limit
    captions = [*CAPTIONS, "a", "", "b c", "dog " * 90][:count]
    expected = model.encode_text(clip.tokenize(captions, truncate=True))
    ids = backbone.pad(backbone.tokenize(captions)[0])
    assert error_of(embedded(backbone, "text", text(ids)), expected) < limit
    assert image(pixels).dtype == text(ids).dtype == torch.float32


@torch.inference_mode()
def test_captions_of_every_length_alone_and_mixed_equal_the_77_token_pass(kernels):
    import clip

    model = random_clip("transformer")
    backbone, (_, text) = backbone_of(model), towers(model, Arithmetic(torch.float32, kernels))
    captions = [" ".join(["dog", "cat", "red"][number % 3] for number in range(words)) for words in range(76)]
    captions[40] += " <|endoftext|> and more"
    tokens, counts = backbone.tokenize(captions)
    assert counts.tolist()[:40] == list(range(2, 42))
    expected = model.encode_text(clip.tokenize(captions, truncate=True))
    mixed = np.random.default_rng(0).permutation(len(captions))
    for rows in (mixed, *np.array_split(mixed, 9), *np.arange(len(captions))[:, None]):
        features = text(backbone.pad([tokens[row] for row in rows]))
        assert error_of(embedded(backbone, "text", features), expected[rows]) < 1e-5


@torch.inference_mode()
def test_float16_follows_clips_own_float16(family):
    import clip

    model = halved(lively_clip(family))
    backbone = backbone_of(model, precision="float16")
    assert backbone.kernels == "torch"
    pixels, captions = pictures(3, side=64), CAPTIONS
    features = backbone.encode_image(pixels)
    assert features.dtype == torch.float16
    assert backbone.normalise(pixels).dtype == torch.float16
    expected = model.encode_image(backbone.normalise(pixels))
    assert error_of(embedded(backbone, "image", features), expected) < ROUNDING[torch.float16]
    backbone.require_exact("image", inputs=pixels, features=features)
    ids = backbone.pad(backbone.tokenize(captions)[0])
    features = backbone.encode_text(ids)
    assert features.dtype == torch.float16
    assert error_of(embedded(backbone, "text", features), model.encode_text(clip.tokenize(captions))) < 2e-2
    backbone.require_exact("text", inputs=ids, features=features)


@pytest.mark.skipif(not HAS_BFLOAT16, reason="the processor has no bfloat16")
def test_bfloat16_points_where_float32_points(family):
    exact, rounded = (backbone_of(lively_clip(family), precision=name) for name in ("float32", "bfloat16"))
    pixels = pictures(6, side=64)
    ids = exact.pad(exact.tokenize(CAPTIONS)[0])
    for side, inputs in (("image", pixels), ("text", ids)):
        encode = f"encode_{side}"
        expected, features = getattr(exact, encode)(inputs), getattr(rounded, encode)(inputs)
        assert features.dtype == torch.float32
        assert not torch.equal(features, expected)
        assert torch.cosine_similarity(features, expected).min() > 0.9995
        centred = [features - features.mean(dim=0) for features in (features, expected)]
        assert torch.cosine_similarity(*centred).min() > 0.99
        rounded.require_exact(side, inputs=inputs, features=features)


@pytest.mark.parametrize("family", ["transformer", pytest.param("resnet", marks=pytest.mark.slow)])
@pytest.mark.ci
def test_a_compiled_tower_gives_the_same_features_at_every_shape(family, monkeypatch):
    # What is tested is that torch can trace the towers whole; its compiler takes minutes.
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager", fullgraph=True))
    torch._dynamo.reset()
    plain, compiled = backbone_of(lively_clip(family)), backbone_of(lively_clip(family), compiled=True)
    assert compiled.kernels == "torch"
    for count in (2, 5):
        pixels = pictures(count, side=64)
        assert error_of(compiled.encode_image(pixels), plain.encode_image(pixels)) < 1e-5
        ids = plain.pad(plain.tokenize([*CAPTIONS, "a", "b c d"][:count])[0])
        assert error_of(compiled.encode_text(ids), plain.encode_text(ids)) < 1e-5


def test_cudnn_does_not_shorten_float32():
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = True
    try:
        with whole_float32(torch.device("cuda")):
            assert not torch.backends.cudnn.allow_tf32
        assert torch.backends.cudnn.allow_tf32
    finally:
        torch.backends.cudnn.allow_tf32 = before


@pytest.mark.slow
@pytest.mark.parametrize("name", SIZES)
@torch.inference_mode()
def test_every_model_of_openai_is_exact_at_its_real_size(name):
    import clip

    model = real_clip(name)
    backbone = backbone_of(model)
    pixels, captions = pictures(2, side=model.visual.input_resolution), CAPTIONS[:2]
    expected_images = model.encode_image(backbone.normalise(pixels).contiguous())
    expected_texts = model.encode_text(clip.tokenize(captions))
    assert min(spread_of(expected_images), spread_of(expected_texts)) > 0.05
    image = error_of(embedded(backbone, "image", backbone.encode_image(pixels)), expected_images)
    ids = backbone.pad(backbone.tokenize(captions)[0])
    text = error_of(embedded(backbone, "text", backbone.encode_text(ids)), expected_texts)
    sys.stdout.write(f"\n{name}: error relative to clip's largest value: image {image:.1e}, text {text:.1e}\n")
    assert max(image, text) < 1e-5
