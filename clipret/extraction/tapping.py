"""The tokens that go into an encoder's last block: how many there are, and what storing them in fewer bits costs."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from clipret.backbones.protocol import Backbone, TokenBackbone
from clipret.cache.taps import Tap, store_tokens
from clipret.config import ExtractConfig
from clipret.errors import BackboneError, UsageError
from clipret.extraction.processes import Rank
from clipret.images import ImageReader
from clipret.machine.last_blocks import LastBlock
from clipret.machine.rows import batches_of_a_length

_TOKENIZED_AT_ONCE = 4096
# Images, and captions, that the loss is measured on.
_MEASURED = 16


def require_tap(config: ExtractConfig, backbone: Backbone, *, rank: Rank) -> None:
    """Raise BackboneError or UsageError when tokens are asked for that cannot be kept."""
    if not config.tap_sides:
        return
    if backbone.last_blocks is None:
        raise BackboneError(
            f"--tap is {config.tap}, but the tokens inside {backbone.name} (family {backbone.family}) cannot be kept; "
            f"expected a model of OpenAI's architecture, or --tap none."
        )
    if rank.count > 1:
        raise UsageError(f"--tap is {config.tap}, which one process extracts; run it without torchrun.")


def plan_taps(config: ExtractConfig, backbone: TokenBackbone, *, texts: Sequence[str]) -> dict[str, Tap]:
    """side -> how its tokens will be stored. Captions are tokenized for it, as they are of different lengths.

    texts  all captions, with their prompt
    """
    taps = {}
    for side in config.tap_sides:
        block: LastBlock = backbone.last_blocks[side]
        starts = None
        if block.positions is None:
            lengths = np.concatenate([_lengths(backbone, part) for part in _parts(texts)])
            starts = np.concatenate([[0], np.cumsum(lengths)])
        taps[side] = Tap(block.width, config.tap_dtype, positions=block.positions, starts=starts)
    return taps


def sizes_of(taps: Mapping[str, Tap], *, counts: Mapping[str, int]) -> dict[str, str]:
    """side -> how much room its tokens take, in words."""
    sizes = {side: int(tap.row_bytes(np.arange(counts[side])).sum()) for side, tap in taps.items()}
    return {side: f"{size / 2**20:,.1f} MiB" for side, size in sizes.items()}


def measured_loss(
    backbone: TokenBackbone, taps: dict[str, Tap], *, reader: ImageReader, texts: Sequence[str]
) -> dict[str, dict]:
    """side -> rows (how many), and the mean and minimum of the cosine between the features of stored and exact tokens.

    They are measured on the first images that can be read and on the first captions, centred too: after subtracting
    the mean feature of these rows. A side without such rows is left out.
    """
    losses = {}
    for side, tap in taps.items():
        pairs = _image_pairs(backbone, reader, tap) if side == "image" else _text_pairs(backbone, texts, tap)
        exact, stored = (torch.cat(parts).double().cpu() for parts in zip(*pairs, strict=True)) if pairs else ((), ())
        if len(exact):
            centred = (values - exact.mean(dim=0) for values in (exact, stored))
            losses[side] = {
                "rows": len(exact),
                "cosine": _figures(torch.cosine_similarity(exact, stored)),
                "centred_cosine": _figures(torch.cosine_similarity(*centred)),
            }
    return losses


def _image_pairs(backbone: TokenBackbone, reader: ImageReader, tap: Tap) -> list[tuple[torch.Tensor, torch.Tensor]]:
    rows = np.arange(min(len(reader.files), 4 * _MEASURED))
    pixels, problems, *_ = reader.read(rows)
    readable = [place for place in range(len(rows)) if place not in problems][:_MEASURED]
    if not readable:
        return []
    return [_pair(backbone, "image", backbone.encode_image(pixels[readable], tokens=True), tap)]


def _text_pairs(backbone: TokenBackbone, texts: Sequence[str], tap: Tap) -> list[tuple[torch.Tensor, torch.Tensor]]:
    tokens, _ = backbone.tokenize(list(texts[:_MEASURED]))
    tokens = [ids[: end_of(ids)] for ids in tokens]
    pairs = []
    for places in batches_of_a_length([len(ids) for ids in tokens], batch_size=len(tokens)):
        ids = backbone.pad([tokens[place] for place in places])
        pairs.append(_pair(backbone, "text", backbone.encode_text(ids, tokens=True), tap))
    return pairs


def _pair(backbone: TokenBackbone, side: str, encoded: torch.Tensor, tap: Tap) -> tuple[torch.Tensor, torch.Tensor]:
    """Features, and features of the same tokens once stored."""
    width = backbone.widths[side]
    tokens = encoded[:, width:].reshape(len(encoded), -1, tap.width)
    lengths = np.full(len(encoded), tokens.shape[1])
    stored = store_tokens(tokens.float().cpu().numpy(), lengths=lengths, dtype=tap.dtype).numbers()
    return encoded[:, :width], backbone.finish(side, torch.from_numpy(stored).view(tokens.shape))


def _figures(cosines: torch.Tensor) -> dict[str, float]:
    return {"mean": round(cosines.mean().item(), 6), "min": round(cosines.min().item(), 6)}


def _parts(texts: Sequence[str]) -> list[list[str]]:
    return [list(texts[start : start + _TOKENIZED_AT_ONCE]) for start in range(0, len(texts), _TOKENIZED_AT_ONCE)]


def _lengths(backbone: TokenBackbone, texts: list[str]) -> np.ndarray:
    return np.array([end_of(ids) for ids in backbone.tokenize(texts)[0]], dtype=np.int64)


def end_of(ids: np.ndarray) -> int:
    """How many tokens a caption has up to and with that of its end, the highest of all."""
    return int(np.argmax(ids)) + 1
