"""The tokens before the last block, and what the head of kind block makes of them, against clip's own output."""

import pytest
import torch

from clipret.cache.taps import Tap, block_arrays, store_tokens
from clipret.heads.base import clip_tensors
from clipret.heads.block import BlockHead
from clipret.machine.token_rows import TokenRows
from tests.helpers.backbone_models import CAPTIONS, backbone_of, error_of, lively_clip, pictures, real_clip

TEXTS = [*CAPTIONS, "one more", "a red bus", "of another length than the others are", "y", "z", "a b c", "two dogs"]


def head_of(backbone) -> BlockHead:
    tensors = backbone.projections() | block_arrays(backbone.last_blocks)
    return BlockHead(clip_tensors(tensors, names=BlockHead.names)).requires_grad_(False)


def image_rows(backbone, pixels) -> TokenRows:
    encoded = backbone.encode_image(pixels, tokens=True)[:, backbone.widths["image"] :].float()
    block = backbone.last_blocks["image"]
    tokens = encoded.reshape(-1, block.width).clone()
    return TokenRows(tokens, torch.full((len(pixels),), block.positions))


def text_rows(backbone, texts) -> TokenRows:
    """Each caption by itself: rows of different lengths."""
    width, tokens = backbone.last_blocks["text"].width, []
    for text in texts:
        ids = backbone.pad(backbone.tokenize([text])[0])
        encoded = backbone.encode_text(ids, tokens=True)[:, backbone.widths["text"] :]
        tokens.append(encoded.reshape(-1, width).float().clone())
    return TokenRows(torch.cat(tokens), torch.tensor([len(part) for part in tokens]))


def clip_embeddings(backbone, side, inputs) -> torch.Tensor:
    """By clip's own module."""
    with torch.no_grad():
        if side == "image":
            values = backbone.model.encode_image(backbone.normalise(inputs).clone())
        else:
            padded = torch.nn.functional.pad(inputs, (0, backbone.context_length - inputs.shape[1]))
            values = backbone.model.encode_text(padded)
    return torch.nn.functional.normalize(values.float(), dim=-1)


def require_equal(backbone) -> None:
    head, pixels = head_of(backbone), pictures(9, side=backbone.image_side)
    embedded = head.embed_images(image_rows(backbone, pixels))
    expected = clip_embeddings(backbone, "image", pixels)
    assert error_of(embedded, expected) < 1e-4
    assert (expected - expected.mean(dim=0)).abs().max() > 1e-2, "images differ"
    ids = backbone.pad(backbone.tokenize(TEXTS)[0])
    assert error_of(head.embed_texts(text_rows(backbone, TEXTS)), clip_embeddings(backbone, "text", ids)) < 1e-4


def test_tokens_through_the_block_are_clips_own_embeddings(family):
    require_equal(backbone_of(lively_clip(family)))


@pytest.mark.ci
@pytest.mark.parametrize("name", ["ViT-B/32", "RN50"])
def test_of_real_sizes_too(name):
    require_equal(backbone_of(real_clip(name)))


@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_features_have_the_same_bits_with_their_tokens(family, precision):
    model = lively_clip(family)
    backbone = backbone_of(model if precision == "float32" else model.half(), precision=precision)
    pixels, ids = pictures(9, side=backbone.image_side), backbone.pad(backbone.tokenize(["a red bus"] * 8)[0])
    for side, encode, inputs in (("image", backbone.encode_image, pixels), ("text", backbone.encode_text, ids)):
        alone, together = encode(inputs), encode(inputs, tokens=True)
        width = backbone.widths[side]
        assert torch.equal(together[:, :width], alone)
        tokens = together[:, width:].reshape(len(inputs), -1, backbone.last_blocks[side].width)
        assert error_of(backbone.finish(side, tokens), alone) < 1e-2


def test_another_block_in_the_encoder_computes_what_the_head_computes(family):
    backbone = backbone_of(lively_clip(family))
    head = head_of(backbone)
    generator = torch.Generator().manual_seed(0)
    for name, parameter in head.named_parameters():
        if not name.endswith("heads"):
            parameter.data += 0.05 * torch.randn(parameter.shape, generator=generator)
    folded = backbone.with_last_blocks({side: head.replaced_block(side) for side in ("image", "text")})
    behind, pixels = head.behind_blocks().requires_grad_(False), pictures(9, side=backbone.image_side)
    embedded = behind.embed_images(folded.encode_image(pixels))
    assert error_of(embedded, head.embed_images(image_rows(backbone, pixels))) < 1e-4
    assert error_of(embedded, head_of(backbone).embed_images(image_rows(backbone, pixels))) > 1e-3
    ids = backbone.pad(backbone.tokenize(TEXTS)[0])
    embedded = behind.embed_texts(folded.encode_text(ids))
    assert error_of(embedded, head.embed_texts(text_rows(backbone, TEXTS))) < 1e-4
    # The encoder that it came from is as it was.
    require_equal(backbone)


@pytest.mark.parametrize("dtype", ["float16", "int8"])
def test_stored_tokens_are_near_the_exact_ones(family, dtype):
    backbone = backbone_of(lively_clip(family))
    head, exact = head_of(backbone), image_rows(backbone, pictures(9, side=backbone.image_side))
    tap = Tap(exact.width, dtype, positions=int(exact.lengths[0]))
    stored = store_tokens(
        exact.values.view(9, -1, tap.width).numpy(), lengths=exact.lengths.numpy(), dtype=tap.dtype
    ).torch()
    assert stored.nbytes < (0.3 if dtype == "int8" else 0.51) * exact.nbytes
    cosines = torch.cosine_similarity(head.embed_images(stored), head.embed_images(exact))
    assert cosines.min() > (0.999 if dtype == "int8" else 0.999999)
    step = exact.values.abs().max(dim=1, keepdim=True).values * (0.5001 / 127 if dtype == "int8" else 2**-11)
    assert ((stored.float().values - exact.values).abs() <= step + 1e-7).all()
