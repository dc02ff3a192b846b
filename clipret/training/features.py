"""Where the training features are stored, and how batches of them get to the device."""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

from clipret.cache import FeatureCache
from clipret.errors import UsageError
from clipret.heads.base import FEATURES, SIDES, TOKENS
from clipret.machine.memory import available_memory
from clipret.machine.token_rows import TokenRows
from clipret.retrieval.inputs import block_rows, read_rows, require_inputs, stored_bytes
from clipret.training.pairs import Pairs

# Share of free memory, on the device or the host, that features may take without --memory-limit.
_SHARE = 0.6
# Features are converted to float32 once, rather than in every step, if so many times their size is free.
_WIDE = 8
_FEATURES_ALONE = dict.fromkeys(SIDES, FEATURES)


class Features:
    """What a head reads of the images and captions of the training pairs, by position: features, or tokens of a side.

    placement  device: on the device, in the cache's dtype or, if there is room, as float32;
               host: in (pinned) memory, copied to the device batch by batch;
               disk: in the cache's file
    """

    def __init__(
        self,
        cache: FeatureCache,
        pairs: Pairs,
        *,
        placement: str,
        device: str,
        memory_limit: float | None,
        inputs: Mapping[str, str] = _FEATURES_ALONE,
    ):
        """placement may be auto: the first that fits. inputs: image, text -> heads.base.FEATURES or TOKENS.

        Raises CacheError when a feature is not finite (with `disk`, when it is read) or the cache has no tokens, and
        UsageError when the features do not fit in the requested place.
        """
        require_inputs(cache, inputs)
        self._cache, self._device, self._inputs = cache, device, inputs
        self._rows = {"image": pairs.image_rows, "text": pairs.text_rows}
        self.placement, wide = _place(self.size, asked=placement, device=device, limit=memory_limit)
        self._buffers = {}
        self._executor = None
        if self.placement != "disk":
            stored = {side: self._read_rows(side, rows) for side, rows in self._rows.items()}
            if self.placement == "device":
                stored = {side: values.to(device) for side, values in stored.items()}
                # Tokens are many, and few of them are read in a step: they stay as they are stored.
                stored |= {side: stored[side].float() for side, kind in inputs.items() if wide and kind == FEATURES}
            elif device == "cuda":
                stored = {side: values.pin_memory() for side, values in stored.items()}
            self._stored = stored
        if self.placement != "device":
            self._executor = ThreadPoolExecutor(1, thread_name_prefix="clipret-features")

    @property
    def size(self) -> int:
        """Bytes of all features."""
        return sum(stored_bytes(self._cache, side, rows, kind=self._inputs[side]) for side, rows in self._rows.items())

    def width(self, side: str) -> int:
        """Width of the features of a side."""
        return self._cache.width(side)

    def batches(self, plan: list[dict[str, torch.Tensor]]):
        """For each batch of the plan, {image, text: positions (S, B)}, yield {image, text: (S, B, D) float32}, valid
        until the next one; of a side of tokens, of which S is 1, [TokenRows] of B rows. What is not on the device is
        fetched one batch ahead."""
        if self._executor is None:
            for places in plan:
                yield {side: self._gather(side, rows) for side, rows in places.items()}
            return
        coming = None
        for number in range(len(plan) + 1):
            ready = coming
            if number < len(plan):
                coming = self._executor.submit(self._fetch, plan[number])
            if ready is not None:
                yield {
                    side: self._in_runs(side, values.to(self._device, non_blocking=True).float())
                    for side, values in ready.result().items()
                }

    def blocks(self, side: str, *, block: int):
        """All rows of a side in order, in blocks of at most so many, (n, D) float32 or TokenRows on the device."""
        block = block_rows(self._cache, side, kind=self._inputs[side], most=block)
        for start in range(0, len(self._rows[side]), block):
            rows = torch.arange(start, min(start + block, len(self._rows[side])))[None]
            if self.placement == "device":
                yield self._stored[side][start : start + block].float()
            else:
                yield self._in_runs(side, self._fetch({side: rows})[side])[0].to(self._device).float()

    def _in_runs(self, side: str, values: torch.Tensor | TokenRows) -> torch.Tensor | list[TokenRows]:
        return [values] if self._inputs[side] == TOKENS else values

    def _gather(self, side: str, places: torch.Tensor) -> torch.Tensor | list[TokenRows]:
        source = self._stored[side]
        if isinstance(source, TokenRows):
            return [source[places[0]].float()]
        shape = (*places.shape, source.shape[1])
        if (side, shape) not in self._buffers:
            stored, wide = (
                torch.empty(shape, dtype=kind, device=self._device) for kind in (source.dtype, torch.float32)
            )
            self._buffers[side, shape] = stored, wide
        stored, wide = self._buffers[side, shape]
        flat = places.flatten().to(self._device, non_blocking=True)
        if source.dtype == torch.float32:
            return torch.index_select(source, 0, flat, out=wide.view(-1, shape[-1])).view(shape)
        torch.index_select(source, 0, flat, out=stored.view(-1, shape[-1]))
        return wide.copy_(stored)

    def _fetch(self, places: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        if self.placement != "disk":
            fetched = {
                side: self._stored[side][rows[0] if self._inputs[side] == TOKENS else rows]
                for side, rows in places.items()
            }
        else:
            fetched = {side: self._read(side, rows) for side, rows in places.items()}
        return {side: values.pin_memory() for side, values in fetched.items()} if self._device == "cuda" else fetched

    def _read(self, side: str, places: torch.Tensor) -> torch.Tensor | TokenRows:
        values = self._read_rows(side, self._rows[side][places.flatten().numpy()])
        return values if isinstance(values, TokenRows) else values.view(*places.shape, -1)

    def _read_rows(self, side: str, rows: np.ndarray) -> torch.Tensor | TokenRows:
        return read_rows(self._cache, side, rows, kind=self._inputs[side])


def _place(size: int, *, asked: str, device: str, limit: float | None) -> tuple[str, bool]:
    """Where to store features of that size, and whether there is room for them as float32 on the device."""
    allowed = None if limit is None else int(limit * (1 << 30))
    room = {"host": _SHARE * _free_memory() if allowed is None else allowed}
    if device == "cuda":
        room["device"] = min(_SHARE * torch.cuda.mem_get_info()[0], allowed or float("inf"))
    else:
        room["device"] = room["host"]
    wide = _WIDE * size <= room["device"]
    if asked == "auto":
        return next((place for place in ("device", "host") if size <= room[place]), "disk"), wide
    if asked != "disk" and allowed is not None and size > allowed:
        raise UsageError(
            f"--features is {asked}, but the training features are {size / (1 << 30):.2f} GiB and --memory-limit is "
            f"{limit:g}; give more, or --features disk."
        )
    return asked, wide


def _free_memory() -> int:
    """Bytes of memory available without swapping. Raises UsageError when the system does not report it."""
    memory = available_memory()
    if memory is None:
        raise UsageError("this system does not say how much memory it has; give --memory-limit GIB.")
    return memory
