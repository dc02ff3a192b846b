import numpy as np
import torch
from PIL import Image

from clipret.backbones.pixels import Normaliser, split_transform


def clips_steps():
    from clip.clip import _transform

    return split_transform(_transform(8), name="made")[1]


def test_every_value_of_every_channel_is_the_one_clip_gives_by_both_ways():
    steps = clips_steps()
    values = np.stack([np.arange(256), np.arange(256)[::-1], np.roll(np.arange(256), 7)], axis=1).astype(np.uint8)
    expected = Image.fromarray(values[None])
    for step in steps:
        expected = step(expected)
    normalise = Normaliser(steps, device=torch.device("cpu"))
    row = torch.from_numpy(values.reshape(1, -1))
    for compute in (normalise, normalise._computed, normalise._looked_up):
        values = compute(row)
        assert values.dtype == torch.float32
        assert torch.equal(values.view(256, 3).T, expected[:, 0])


def test_where_the_arithmetic_rounds_otherwise_the_values_are_looked_up(monkeypatch):
    """As on CUDA, whose division by a constant is a multiplication."""

    def reciprocal(self, interleaved):
        times = interleaved.shape[-1] // 3
        values = interleaved.float().mul_(1 / 255)
        return values.sub_(self._mean.repeat(times)).div_(self._std.repeat(times))

    pixels = torch.arange(768, dtype=torch.int64).remainder(256).to(torch.uint8)[None]
    expected = Normaliser(clips_steps(), device=torch.device("cpu"))(pixels)
    monkeypatch.setattr(Normaliser, "_computed", reciprocal)
    other = Normaliser(clips_steps(), device=torch.device("cpu"))
    assert not torch.equal(other._computed(pixels), expected)
    assert torch.equal(other(pixels), expected)
