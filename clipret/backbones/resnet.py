"""CLIP's ResNets over clip's own weights, up to the penultimate features.

Shape suffixes: B batch, S image side, C channels, D width.
"""

import torch
from torch.nn import functional

from clipret.backbones.kernels import Arithmetic, OneQuery
from clipret.backbones.pixels import Normaliser
from clipret.backbones.towers import with_tokens
from clipret.machine import torch_private

# Bytes of the largest activation on the CPU; above this, oneDNN's convolutions run at 0.6 of their speed.
_CPU_BYTES = 26_000_000
# Batch size that weights are packed for; other sizes run as fast.
_PACKED_FOR = 8


class ImageResNet:
    """(B, S, S, 3) uint8 -> (B, D): the attention-pooled vector, the input of visual.attnpool.c_proj."""

    def __init__(self, visual: torch.nn.Module, *, normalise: Normaliser, arithmetic: Arithmetic):
        self._normalise = normalise
        self._arithmetic = arithmetic
        self._side = side = visual.input_resolution
        self._stem = [
            Convolution(convolution, norm=norm, side=taken, arithmetic=arithmetic)
            for convolution, norm, taken in (
                (visual.conv1, visual.bn1, side),
                (visual.conv2, visual.bn2, side // 2),
                (visual.conv3, visual.bn3, side // 2),
            )
        ]
        self._blocks, side = [], side // 4
        for layer in (visual.layer1, visual.layer2, visual.layer3, visual.layer4):
            for block in layer:
                self._blocks.append(Bottleneck(block, side=side, arithmetic=arithmetic))
                side //= block.stride
        self._pool = AttentionPool(visual.attnpool, arithmetic=arithmetic)
        self._channels = visual.conv3.out_channels

    @property
    def piece(self) -> int:
        """Best number of images at a time on a CPU."""
        return max(1, _CPU_BYTES // (self._channels * self._side**2))

    def __call__(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.finish(self.tokens(pixels))

    def with_tokens(self, pixels: torch.Tensor) -> torch.Tensor:
        """(B, D + L D): what a call returns, and behind it the L tokens that go into the attention pool."""
        return with_tokens(self.finish, self.tokens(pixels))

    def tokens(self, pixels: torch.Tensor) -> torch.Tensor:
        """(B, L, D): what goes into the attention of the pool, the mean of all positions first."""
        batch, side = len(pixels), self._side
        x = self._normalise(pixels.reshape(batch, side, side * 3)).to(self._arithmetic.dtype)
        # The pixels are already in channels_last order.
        x = x.view(batch, side, side, 3).permute(0, 3, 1, 2)
        for convolution in self._stem:
            x = convolution(x)
        x = functional.avg_pool2d(x, 2)
        for block in self._blocks:
            x = block(x)
        return self._pool.tokens(x).to(self._arithmetic.stream)

    def finish(self, tokens: torch.Tensor) -> torch.Tensor:
        """The features (B, D) of tokens (B, L, D)."""
        return self._pool(tokens.to(self._arithmetic.dtype)).to(self._arithmetic.stream)


class Convolution:
    """A convolution and its BatchNorm in eval mode, optionally followed by an addition and a ReLU."""

    def __init__(
        self,
        convolution: torch.nn.Conv2d,
        *,
        norm: torch.nn.BatchNorm2d,
        side: int,
        arithmetic: Arithmetic,
        relu: bool = True,
    ):
        """side: S of the input."""
        self._stride, self._padding, self._relu = list(convolution.stride), list(convolution.padding), relu
        self._folded, self._packed = arithmetic.folds, arithmetic.kernels == "oneDNN"
        weight = convolution.weight.detach()
        self._norm = (
            [part.detach().float() for part in (norm.running_mean, norm.running_var, norm.weight, norm.bias)],
            norm.eps,
        )
        self._bias = None
        if self._folded:
            (mean, variance, scale, shift), eps = self._norm
            # In float64, so that the product is rounded once.
            scale = scale.double() / (variance.double() + eps).sqrt()
            weight = weight.double() * scale[:, None, None, None]
            self._bias = (shift.double() - mean.double() * scale).to(arithmetic.dtype)
        self._weight = weight.to(arithmetic.dtype, memory_format=torch.channels_last)
        if self._packed:
            # Without a shape, oneDNN assumes one for which some bfloat16 convolutions run at a tenth of their speed.
            # The batch size is constant, because another one may change the bits.
            shape = [_PACKED_FOR, weight.shape[1], side, side]
            self._weight = torch_private.pack_convolution(
                self._weight, padding=self._padding, stride=self._stride, shape=shape
            )

    def __call__(self, x: torch.Tensor, *, add: torch.Tensor | None = None) -> torch.Tensor:
        """(B, C, S, S) -> (B, C', S', S'); `add` may be overwritten."""
        if self._packed:
            arguments = (self._weight, self._bias, self._padding, self._stride)
            return torch_private.convolve(x, *arguments, add=add, relu=self._relu)
        x = functional.conv2d(x, self._weight, self._bias, self._stride, self._padding)
        if not self._folded:
            (mean, variance, scale, shift), eps = self._norm
            x = functional.batch_norm(x, mean, variance, scale, shift, eps=eps)
        if add is not None:
            x.add_(add)
        return x.relu_() if self._relu else x


class Bottleneck:
    """A residual block of three convolutions; strides are average pools, as in clip."""

    def __init__(self, block: torch.nn.Module, *, side: int, arithmetic: Arithmetic):
        """side: S of the input."""
        self._stride = block.stride
        after = side // self._stride
        self._convolutions = [
            Convolution(convolution, norm=norm, side=taken, arithmetic=arithmetic)
            for convolution, norm, taken in (
                (block.conv1, block.bn1, side),
                (block.conv2, block.bn2, side),
                (block.conv3, block.bn3, after),
            )
        ]
        self._downsample = None
        if block.downsample is not None:
            _, convolution, norm = block.downsample
            self._downsample = Convolution(convolution, norm=norm, side=after, arithmetic=arithmetic, relu=False)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        first, second, third = self._convolutions
        y = self._pooled(second(first(x)))
        return third(y, add=x if self._downsample is None else self._downsample(self._pooled(x)))

    def _pooled(self, x: torch.Tensor) -> torch.Tensor:
        return functional.avg_pool2d(x, self._stride) if self._stride > 1 else x


class AttentionPool:
    """One attention query, the mean of all positions: tokens (B, L, C) -> (B, C), before c_proj."""

    def __init__(self, pool: torch.nn.Module, *, arithmetic: Arithmetic):
        self._positions = pool.positional_embedding.detach().to(arithmetic.dtype)
        parts = (pool.q_proj, pool.k_proj, pool.v_proj)
        weight, bias = (torch.cat([getattr(part, name) for part in parts]).detach() for name in ("weight", "bias"))
        self._attention = OneQuery(weight, bias, heads=pool.num_heads, arithmetic=arithmetic)

    def tokens(self, x: torch.Tensor) -> torch.Tensor:
        """(B, C, S, S) -> (B, L, C): the mean of all positions, then each of them, with their embeddings."""
        x = x.flatten(2).transpose(1, 2)
        return torch.cat([x.mean(dim=1, keepdim=True), x], dim=1) + self._positions

    def __call__(self, tokens: torch.Tensor) -> torch.Tensor:
        return self._attention(tokens, at=torch.zeros(len(tokens), dtype=torch.int64, device=tokens.device))
