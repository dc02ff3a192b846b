"""CLIP's transformers over clip's own weights, up to the penultimate features.

Only one position is used after the last block, so that block computes query, output and MLP for this position only.

Shape suffixes: B batch, S image side, P patch side, N patches, L positions, D width.
"""

from collections.abc import Callable

import torch

from clipret.backbones.kernels import CPU_ROWS, Arithmetic, Linear, Norm, OneQuery, QuickMLP, attend
from clipret.backbones.pixels import Normaliser


class ImageTransformer:
    """(B, S, S, 3) uint8 -> (B, D): the class token after ln_post, the input of visual.proj."""

    def __init__(self, visual: torch.nn.Module, *, normalise: Normaliser, arithmetic: Arithmetic):
        self._normalise = normalise
        self._arithmetic = arithmetic
        weight, stream = visual.conv1.weight.detach(), arithmetic.stream
        self._patch = weight.shape[-1]
        # Columns in the order of the pixels: down, across, channel.
        self._embed = Linear(weight.permute(0, 2, 3, 1).flatten(1), None, arithmetic=arithmetic)
        positions = visual.positional_embedding.detach().to(stream)
        self._first = visual.class_embedding.detach().to(stream) + positions[0]
        self._positions = positions[1:]
        self._norm_before = Norm(visual.ln_pre, arithmetic=arithmetic, output=stream)
        self._blocks = [Block(block, arithmetic=arithmetic) for block in visual.transformer.resblocks[:-1]]
        self._last = LastBlock(visual.transformer.resblocks[-1], arithmetic=arithmetic)
        self._norm_after = Norm(visual.ln_post, arithmetic=arithmetic, output=stream)

    @property
    def piece(self) -> int:
        """Best number of images at a time on a CPU."""
        return max(1, CPU_ROWS // (len(self._positions) + 1))

    def __call__(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.finish(self.tokens(pixels))

    def with_tokens(self, pixels: torch.Tensor) -> torch.Tensor:
        """(B, D + L D): what a call returns, and behind it the L tokens that go into the last block."""
        return with_tokens(self.finish, self.tokens(pixels))

    def tokens(self, pixels: torch.Tensor) -> torch.Tensor:
        """(B, L, D): what goes into the last block."""
        batch, side, patch = len(pixels), pixels.shape[1], self._patch
        across = side // patch
        # Cut into patches as bytes, which moves a quarter of the data of floats.
        patches = pixels.reshape(batch, across, patch, across, patch * 3).transpose(2, 3).reshape(batch, across**2, -1)
        patches = self._embed(self._normalise(patches).to(self._arithmetic.dtype))
        first = self._first.expand(batch, 1, -1)
        x = self._norm_before(torch.cat([first, patches + self._positions], dim=1))
        for block in self._blocks:
            x = block(x)
        return x

    def finish(self, tokens: torch.Tensor) -> torch.Tensor:
        """The features (B, D) of tokens (B, L, D)."""
        at = torch.zeros(len(tokens), dtype=torch.int64, device=tokens.device)
        return self._norm_after(self._last(tokens, at=at))


class TextTransformer:
    """(B, L) ids, the end-of-text id the highest of all -> (B, D): ln_final there, the input of text_projection."""

    def __init__(self, model: torch.nn.Module, *, arithmetic: Arithmetic):
        stream = arithmetic.stream
        # The table is big and shared with clip's model; rows are converted when they are looked up.
        self._embedding = model.token_embedding.weight.detach()
        self._stream = stream
        self._positions = model.positional_embedding.detach().to(stream)
        self._blocks = [Block(block, arithmetic=arithmetic) for block in model.transformer.resblocks[:-1]]
        self._last = LastBlock(model.transformer.resblocks[-1], arithmetic=arithmetic)
        self._norm_after = Norm(model.ln_final, arithmetic=arithmetic, output=stream)

    def piece(self, length: int) -> int:
        """Best number of captions of this length at a time on a CPU."""
        return max(1, CPU_ROWS // length)

    def __call__(self, ids: torch.Tensor) -> torch.Tensor:
        return self.finish(self.tokens(ids), ends=ids.argmax(dim=1))

    def with_tokens(self, ids: torch.Tensor) -> torch.Tensor:
        """(B, D + L D): what a call returns, and behind it the L tokens that go into the last block."""
        ends = ids.argmax(dim=1)
        return with_tokens(lambda tokens: self.finish(tokens, ends=ends), self.tokens(ids))

    def tokens(self, ids: torch.Tensor) -> torch.Tensor:
        """(B, L, D): what goes into the last block."""
        length = ids.shape[1]
        x = torch.nn.functional.embedding(ids, self._embedding).to(self._stream) + self._positions[:length]
        for block in self._blocks:
            x = block(x, is_causal=True)
        return x

    def finish(self, tokens: torch.Tensor, *, ends: torch.Tensor) -> torch.Tensor:
        """The features (B, D) of tokens (B, L, D) whose end-of-text tokens are at `ends` (B,)."""
        seen = torch.arange(tokens.shape[1], device=tokens.device) <= ends[:, None]
        return self._norm_after(self._last(tokens, at=ends, seen=seen))


def with_tokens(finish: Callable[[torch.Tensor], torch.Tensor], tokens: torch.Tensor) -> torch.Tensor:
    """(B, D + L D): finish(tokens), and behind it the tokens (B, L, D), as one row for each image or caption."""
    return torch.cat([finish(tokens), tokens.flatten(1)], dim=1)


class Block:
    """A residual attention block: (B, L, D) -> (B, L, D), in place."""

    def __init__(self, block: torch.nn.Module, *, arithmetic: Arithmetic):
        attention = block.attn
        self._heads = attention.num_heads
        self._norm_1 = Norm(block.ln_1, arithmetic=arithmetic)
        self._inner = Linear(attention.in_proj_weight, attention.in_proj_bias, arithmetic=arithmetic)
        self._outer = Linear(attention.out_proj.weight, attention.out_proj.bias, arithmetic=arithmetic)
        self._norm_2 = Norm(block.ln_2, arithmetic=arithmetic)
        self._mlp = QuickMLP(block.mlp, arithmetic=arithmetic)

    def __call__(self, x: torch.Tensor, **mask) -> torch.Tensor:
        query, key, value = self._inner(self._norm_1(x)).chunk(3, dim=-1)
        x = x.add_(self._outer(attend(query, key, value, heads=self._heads, **mask)))
        return x.add_(self._mlp(self._norm_2(x)))


class LastBlock:
    """A residual attention block with output at one position of every row: (B, L, D) -> (B, D)."""

    def __init__(self, block: torch.nn.Module, *, arithmetic: Arithmetic):
        attention = block.attn
        self._norm_1 = Norm(block.ln_1, arithmetic=arithmetic)
        weight, bias = attention.in_proj_weight, attention.in_proj_bias
        self._attention = OneQuery(weight, bias, heads=attention.num_heads, arithmetic=arithmetic)
        self._outer = Linear(attention.out_proj.weight, attention.out_proj.bias, arithmetic=arithmetic)
        self._norm_2 = Norm(block.ln_2, arithmetic=arithmetic)
        self._mlp = QuickMLP(block.mlp, arithmetic=arithmetic)

    def __call__(self, x: torch.Tensor, *, at: torch.Tensor, seen: torch.Tensor | None = None) -> torch.Tensor:
        """at (B,) int64: the positions; seen (B, L) bool: positions they attend to, None: all."""
        attended = self._outer(self._attention(self._norm_1(x), at=at, seen=seen))
        x = x[torch.arange(len(x), device=x.device), at] + attended
        return x + self._mlp(self._norm_2(x))
