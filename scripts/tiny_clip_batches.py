"""What one training step of tiny-emoji sees: freshly drawn captions and freshly distorted drawings."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from clip.simple_tokenizer import SimpleTokenizer
from tiny_clip_data import Concept, Drawings
from torch import Tensor


@dataclass(frozen=True)
class Augmentation:
    """How far drawings are bent: little, so that the features keep the style that a head can then adapt to."""

    zoom: tuple[float, float] = (0.9, 1.0)
    stretch: float = 0.02
    shear: float = 0.01
    degrees: float = 3.0
    shift: float = 0.02
    flip: float = 0.2
    hue_degrees: float = 0.0
    saturation: tuple[float, float] = (1.0, 1.0)
    contrast: tuple[float, float] = (1.0, 1.0)
    brightness: float = 0.0
    coloured_background: float = 0.0
    erase: float = 0.0


@dataclass(frozen=True)
class CaptionMix:
    """Shares of the three kinds of caption, and how many keywords one may hold."""

    name: float = 0.65
    name_and_keywords: float = 0.2  # the rest is keywords alone
    added_keywords: int = 2
    lone_keywords: int = 4
    longest: int = 20  # tokens, start and end included


class Captions:
    """Draws captions as token rows of a compact vocabulary: only tokens that some phrase uses get a row.

    CLIP's tokeniser works word by word, so a caption's tokens are its phrases' tokens in a row, and every phrase needs
    tokenising only once.
    """

    def __init__(self, concepts: list[Concept], *, mix: CaptionMix):
        tokenizer = SimpleTokenizer()
        names = [[tokenizer.encode(phrase) for phrase in concept.names] for concept in concepts]
        keywords = [[tokenizer.encode(phrase) for phrase in concept.keywords] for concept in concepts]
        start, end = (tokenizer.encoder[mark] for mark in ("<|startoftext|>", "<|endoftext|>"))
        used = {token for phrases in (*names, *keywords) for phrase in phrases for token in phrase}
        self.vocabulary = torch.tensor(sorted({*used, start, end}))
        row = {token: position for position, token in enumerate(self.vocabulary.tolist())}
        self._names, self._keywords = (
            [[[row[token] for token in phrase] for phrase in phrases] for phrases in column]
            for column in (names, keywords)
        )
        self._start, self._end, self._mix = row[start], row[end], mix

    def draw(self, concepts: np.ndarray, *, random: np.random.Generator) -> Tensor:
        """One caption for each concept, (B, L) with L the longest of them."""
        captions = [self._draw_one(concept, random=random) for concept in concepts]
        # Row 0 pads: which token that is does not matter, since nothing looks beyond the end of text.
        tokens = torch.zeros(len(captions), max(map(len, captions)), dtype=torch.long)
        for row, caption in enumerate(captions):
            tokens[row, : len(caption)] = torch.tensor(caption)
        return tokens

    def _draw_one(self, concept: int, *, random: np.random.Generator) -> list[int]:
        mix, names, keywords = self._mix, self._names[concept], self._keywords[concept]
        kind = random.random()
        name = names[random.integers(len(names))]
        if kind < mix.name or not keywords:
            phrases = [name]
        else:
            alone = kind >= mix.name + mix.name_and_keywords
            count = random.integers(1, (mix.lone_keywords if alone else mix.added_keywords) + 1)
            places = random.permutation(len(keywords))[:count]
            phrases = [*([] if alone else [name]), *(keywords[position] for position in places)]
        words = [token for phrase in phrases for token in phrase]
        return [self._start, *words[: self._mix.longest - 2], self._end]


class Batches:
    """Epochs over the concepts, each concept once in one of its drawings, neighbours kept together."""

    def __init__(self, drawings: Drawings, *, concepts: list[Concept], captions: Captions, size: int, group: int):
        self._pixels = torch.from_numpy(drawings.pixels)
        self._flippable = torch.tensor([concept.flippable for concept in concepts])
        rows = [np.flatnonzero(drawings.concepts == concept) for concept in range(len(concepts))]
        self._drawn = np.array([concept for concept, keywords in enumerate(rows) if len(keywords)])
        self._rows, self._captions, self._size, self._group = rows, captions, size, group

    @property
    def steps(self) -> int:
        """Batches in an epoch; the incomplete last one is left out."""
        return len(self._drawn) // self._size

    def epoch(self, random: np.random.Generator) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
        """Yield (pixels, flippable, tokens, concepts) batch by batch.

        The concepts are cut into groups of neighbours at a random offset and the groups shuffled, so that a batch
        holds both look-alikes (the hard negatives) and a fair sample of everything.
        """
        order = np.roll(self._drawn, random.integers(len(self._drawn)))
        groups = np.split(order, range(self._group, len(order), self._group))
        random.shuffle(groups := list(groups))
        order = np.concatenate(groups)
        for start in range(0, self.steps * self._size, self._size):
            concepts = order[start : start + self._size]
            rows = [random.choice(self._rows[concept]) for concept in concepts]
            tokens = self._captions.draw(concepts, random=random)
            picked = torch.from_numpy(concepts)
            yield self._pixels[rows], self._flippable[picked], tokens, picked


def augment(
    pixels: Tensor, flippable: Tensor, *, how: Augmentation, resolution: int, random: torch.Generator
) -> Tensor:
    """Distort, recolour and put on a background: (B, S, S, 4) uint8 -> (B, 3, resolution, resolution) in 0 .. 1.

    random  a CPU generator, so that CPU and CUDA runs draw the same distortions
    """
    drawing = pixels.permute(0, 3, 1, 2).float() / 255
    grid = F.affine_grid(
        _affine(flippable, how=how, random=random).to(pixels.device),
        [len(pixels), 4, resolution, resolution],
        align_corners=False,
    )
    drawing = F.grid_sample(drawing, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    alpha = drawing[:, 3:]
    matrix, offset = (part.to(pixels.device) for part in _recolouring(len(pixels), how=how, random=random))
    colour = (matrix @ drawing[:, :3].flatten(2)).view_as(drawing[:, :3]) + offset * alpha
    background = _backgrounds(len(pixels), how=how, random=random).to(pixels.device)
    image = colour.clamp(min=0).minimum(alpha) + (1 - alpha) * background
    erased = _erasure(len(pixels), resolution=resolution, share=how.erase, random=random).to(pixels.device)
    return torch.where(erased, background, image)


def _uniform(shape, low: float, high: float, *, random: torch.Generator) -> Tensor:
    return torch.rand(shape, generator=random) * (high - low) + low


def _affine(flippable: Tensor, *, how: Augmentation, random: torch.Generator) -> Tensor:
    """(B, 2, 3) maps from output to input coordinates, hence the inverse of what happens to the drawing."""
    count = len(flippable)
    size = 1 / _uniform(count, *how.zoom, random=random)
    stretch = torch.exp(how.stretch * torch.randn(count, generator=random))
    angle = math.radians(how.degrees) * torch.randn(count, generator=random)
    shear = how.shear * torch.randn(count, generator=random)
    mirrored = flippable.cpu() & (torch.rand(count, generator=random) < how.flip)
    sign = torch.where(mirrored, -1.0, 1.0)
    turn = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()], dim=1).view(-1, 2, 2)
    zeros = torch.zeros(count)
    shape = torch.stack([sign * size * stretch, shear, zeros, size / stretch], dim=1).view(-1, 2, 2)
    # A drawing made smaller has room to move.
    room = how.shift + (size - 1).clamp(min=0)
    shift = room[:, None] * _uniform((count, 2), -1, 1, random=random)
    return torch.cat([turn @ shape, shift[:, :, None]], dim=2)


def _recolouring(count: int, *, how: Augmentation, random: torch.Generator) -> tuple[Tensor, Tensor]:
    """Hue, saturation, contrast and brightness as one (B, 3, 3) matrix and one (B, 1, 1, 1) offset."""
    grey = torch.full((3, 3), 1 / 3)
    across = torch.tensor([[0.0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / math.sqrt(3)
    hue = (math.radians(how.hue_degrees) * torch.randn(count, generator=random))[:, None, None]
    saturation = _uniform((count, 1, 1), *how.saturation, random=random)
    contrast = _uniform((count, 1, 1), *how.contrast, random=random)
    # Turning about the grey axis changes the hue; scaling what is orthogonal to it, the saturation.
    matrix = grey + saturation * (hue.cos() * (torch.eye(3) - grey) + hue.sin() * across)
    brightness = _uniform((count, 1, 1, 1), -how.brightness, how.brightness, random=random)
    return contrast * matrix, (1 - contrast[..., None]) / 2 + brightness


def _backgrounds(count: int, *, how: Augmentation, random: torch.Generator) -> Tensor:
    """(B, 3, 1, 1): white, or now and then another light colour."""
    light = _uniform((count, 3, 1, 1), 0.7, 1, random=random)
    coloured = torch.rand((count, 1, 1, 1), generator=random) < how.coloured_background
    return torch.where(coloured, light, 1.0)


def _erasure(count: int, *, resolution: int, share: float, random: torch.Generator) -> Tensor:
    """(B, 1, R, R) bool: a box of a tenth to a third of the side, in a share of the images."""
    centre = _uniform((count, 2), 0, 1, random=random)
    half = _uniform((count, 2), 0.05, 0.17, random=random)
    half *= torch.rand((count, 1), generator=random) < share
    places = (torch.arange(resolution) + 0.5) / resolution
    inside = (places - centre[..., None]).abs() < half[..., None]
    return (inside[:, 0, :, None] & inside[:, 1, None, :])[:, None]
