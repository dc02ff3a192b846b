"""The model of tiny-emoji: OpenAI's CLIP classes in small, trained on a compact vocabulary, exported in full."""

import copy
import zipfile
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F  # noqa: N812
from clip.model import CLIP
from torch import Tensor, nn

MEAN = (0.48145466, 0.4578275, 0.40821073)  # clip's own normalisation
STD = (0.26862954, 0.26130258, 0.27577711)
VOCABULARY = 49408
CONTEXT = 77


@dataclass(frozen=True)
class Shape:
    """Sizes in the terms of clip.model.CLIP; the image tower is a ModifiedResNet."""

    embedding: int = 128
    resolution: int = 64
    image_layers: tuple[int, int, int, int] = (1, 2, 2, 2)
    image_width: int = 24
    text_width: int = 192
    text_layers: int = 2


def build(shape: Shape, *, vocabulary: int) -> CLIP:
    """A new CLIP with `vocabulary` token rows and nothing else unusual."""
    return CLIP(
        embed_dim=shape.embedding,
        image_resolution=shape.resolution,
        vision_layers=shape.image_layers,
        vision_width=shape.image_width,
        vision_patch_size=None,
        context_length=CONTEXT,
        vocab_size=vocabulary,
        transformer_width=shape.text_width,
        transformer_heads=shape.text_width // 64,
        transformer_layers=shape.text_layers,
    ).to(memory_format=torch.channels_last)


class Towers(nn.Module):
    """Both towers of a CLIP as one differentiable step that accepts token matrices cut to any length."""

    def __init__(self, clip: CLIP):
        super().__init__()
        self.clip = clip

    def forward(self, images: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Normalised image and text embeddings, (B, E) each."""
        return self.embed_images(images), self.embed_texts(tokens)

    def embed_images(self, images: Tensor) -> Tensor:
        """images (B, 3, R, R) in 0 .. 1."""
        mean, std = (images.new_tensor(values)[:, None, None] for values in (MEAN, STD))
        normal = ((images - mean) / std).contiguous(memory_format=torch.channels_last)
        return F.normalize(self.clip.visual(normal), dim=-1)

    def embed_texts(self, tokens: Tensor) -> Tensor:
        """tokens (B, L), L up to the context length: clip's own encode_text, without the padding it insists on.

        Text attention is causal, so positions after the end of text change nothing and need not be computed.
        """
        clip, length = self.clip, tokens.shape[1]
        mask = clip.build_attention_mask()[:length, :length].to(tokens.device)
        hidden = (clip.token_embedding(tokens) + clip.positional_embedding[:length]).permute(1, 0, 2)
        for block in clip.transformer.resblocks:
            block.attn_mask = mask
            hidden = block(hidden)
        # The end-of-text token has the highest number, also in the compact vocabulary.
        last = hidden.permute(1, 0, 2)[torch.arange(len(tokens), device=tokens.device), tokens.argmax(dim=-1)]
        return F.normalize(clip.ln_final(last) @ clip.text_projection, dim=-1)


def contrastive_loss(image: Tensor, text: Tensor, *, scale: Tensor, same: Tensor) -> Tensor:
    """Symmetric InfoNCE in which every pair of one concept is a positive.

    image, text  (B, E) normalised embeddings
    scale        factor on the cosine
    same         (B, B) bool, whether image i and text j are of one concept
    """
    target = same / same.sum(dim=1, keepdim=True)
    similarity = scale * image @ text.T
    return (F.cross_entropy(similarity, target) + F.cross_entropy(similarity.T, target)) / 2


class MovingAverage:
    """Exponential moving average of a model's weights and batch-norm statistics: what is shipped."""

    def __init__(self, model: nn.Module, *, decay: float):
        self.model = copy.deepcopy(model).eval()
        self.decay = decay
        self.steps = 0

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        self.steps += 1
        # A short memory at first, else the random start would stay in the average for long.
        weight = 1 - min(self.decay, self.steps / (self.steps + 10))
        for average, value in zip(self.model.state_dict().values(), model.state_dict().values(), strict=True):
            if average.is_floating_point():
                average.lerp_(value, weight)
            else:
                average.copy_(value)


def export(clip: CLIP, *, vocabulary: Tensor, positions: int, path: Path) -> None:
    """Write a plain state dict in fp16 that clip.load reads.

    vocabulary  the clip token number of each row of the compact embedding
    positions   longest caption seen in training, in tokens

    Tokens and positions never seen get zeros: an unknown word then says nothing rather than something random, and
    the file shrinks when deflated (torch.load reads deflated archives as well as stored ones).
    """
    state = {name: value.detach().cpu() for name, value in clip.state_dict().items()}
    full = torch.zeros(VOCABULARY, clip.token_embedding.weight.shape[1])
    full[vocabulary] = state["token_embedding.weight"].float()
    state["token_embedding.weight"] = full
    state["positional_embedding"][positions:] = 0
    state = {name: value.half() if value.is_floating_point() else value for name, value in state.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    stored, deflated = path.with_suffix(".stored"), path.with_suffix(".deflated")
    torch.save({name: value.contiguous().clone() for name, value in state.items()}, stored)
    with (
        zipfile.ZipFile(stored) as source,
        zipfile.ZipFile(deflated, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as out,
    ):
        for member in source.infolist():
            # A fixed date, so that equal weights give an equal file.
            entry = zipfile.ZipInfo(member.filename)
            out.writestr(entry, source.read(member), zipfile.ZIP_DEFLATED, compresslevel=9)
    stored.unlink()
    deflated.replace(path)
