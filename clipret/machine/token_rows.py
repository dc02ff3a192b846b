"""Rows of tokens, each row with as many as it has, as a batch for a head that reads tokens.

Shape suffixes: n rows, T tokens of all rows together, L of the longest row, W width.
"""

from dataclasses import dataclass, replace

import torch


@dataclass(frozen=True)
class TokenRows:
    """n rows of tokens, one after the other. Indexed like a tensor of n rows, by a slice or a tensor of places.

    values   (T, W) float16 or float32, or int8, which its scales make numbers of
    lengths  (n,) int64, on the CPU: tokens of each row, 1 or more
    scales   (T,) float32, of int8; None: the values are the numbers
    """

    values: torch.Tensor
    lengths: torch.Tensor
    scales: torch.Tensor | None = None

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, places: slice | torch.Tensor) -> "TokenRows":
        places = places if isinstance(places, slice) else places.cpu()
        lengths = self.lengths[places]
        # Nothing is gathered for rows that follow each other.
        if isinstance(places, slice) and places.step in (None, 1):
            first, stop, _ = places.indices(len(self))
            span = slice(int(self.lengths[:first].sum()), int(self.lengths[: max(first, stop)].sum()))
            return self._picked(span, lengths)
        starts = (self.lengths.cumsum(0) - self.lengths)[places]
        before = lengths.cumsum(0) - lengths
        tokens = torch.arange(int(lengths.sum())) + (starts - before).repeat_interleave(lengths)
        return self._picked(tokens.to(self.values.device), lengths)

    @property
    def width(self) -> int:
        """W."""
        return self.values.shape[1]

    @property
    def nbytes(self) -> int:
        """Of values and scales."""
        return self.values.nbytes + (0 if self.scales is None else self.scales.nbytes)

    @property
    def device(self) -> torch.device:
        """Where the values are."""
        return self.values.device

    def to(self, device: str | torch.device, *, non_blocking: bool = False) -> "TokenRows":
        """The same on a device; the lengths stay on the CPU."""
        return self._each(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> "TokenRows":
        """The same in memory that a GPU copies from at once."""
        return self._each(torch.Tensor.pin_memory)

    def float(self) -> "TokenRows":
        """The same as float32."""
        return TokenRows(self._numbers(torch.float32), self.lengths)

    def double(self) -> "TokenRows":
        """The same as float64."""
        return TokenRows(self._numbers(torch.float64), self.lengths)

    def padded(self) -> tuple[torch.Tensor, torch.Tensor | None]:
        """(n, L, W) with zeros behind the shorter rows, and (n, L) bool, where there is a token; None: everywhere."""
        longest = int(self.lengths.max()) if len(self) else 0
        if bool((self.lengths == longest).all()):
            return self.values.view(len(self), longest, self.width), None
        there = (torch.arange(longest) < self.lengths[:, None]).to(self.device)
        rows = self.values.new_zeros((len(self), longest, self.width))
        rows[there] = self.values
        return rows, there

    def _numbers(self, kind: torch.dtype) -> torch.Tensor:
        values = self.values.to(kind)
        return values if self.scales is None else values * self.scales[:, None].to(kind)

    def _picked(self, tokens: slice | torch.Tensor, lengths: torch.Tensor) -> "TokenRows":
        return TokenRows(self.values[tokens], lengths, None if self.scales is None else self.scales[tokens])

    def _each(self, change) -> "TokenRows":
        scales = None if self.scales is None else change(self.scales)
        return replace(self, values=change(self.values), scales=scales)
