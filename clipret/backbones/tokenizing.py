"""Libraries' tokenizers behind protocol.Tokenizer. Shape suffixes: B batch, L token positions."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch


@dataclass(frozen=True)
class LibraryTokenizer:
    """Captions -> token ids exactly as a library gives them. Can be pickled, if its functions can.

    tokenize        texts -> (B, context_length) int64 ids, truncated and padded at the end
    count           texts -> tokens of each before truncation, start and end included
    context_length  the most tokens that the encoder reads
    end             id of the last token of a text; None: texts end at the padding
    padding         id that fills shorter texts
    cut             whether what follows a text's last token changes nothing of its feature, so that it is left out: of
                    text that is causal, or masked
    """

    tokenize: Callable[[list[str]], torch.Tensor]
    count: Callable[[list[str]], list[int]]
    context_length: int
    end: int | None
    padding: int
    cut: bool

    def __call__(self, captions: list[str]) -> tuple[list[np.ndarray], np.ndarray]:
        """Ids of the captions, int32; (B,) int64 counts before truncation."""
        if not captions:
            return [], np.zeros(0, dtype=np.int64)
        ids = self.tokenize(captions).numpy().astype(np.int32)
        lengths = self._lengths(ids)
        counts = lengths.copy()
        # Only a text that fills all positions can have been longer.
        full = np.flatnonzero(lengths == ids.shape[1])
        counts[full] = np.maximum(self.count([captions[row] for row in full]), lengths[full]) if len(full) else 0
        return [row[:length] for row, length in zip(ids, lengths, strict=True)] if self.cut else list(ids), counts

    def is_too_long(self, text: str) -> bool:
        """Whether a text has more tokens than context_length, start and end included."""
        return self.count([text])[0] > self.context_length

    def pad(self, tokens: list[np.ndarray]) -> torch.Tensor:
        """Ids of B captions -> (B, L) int64, L the longest of them."""
        rows = [torch.from_numpy(ids.astype(np.int64)) for ids in tokens]
        return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=self.padding)

    def _lengths(self, ids: np.ndarray) -> np.ndarray:
        """(B,) positions that a text takes of its row."""
        is_end = ids == self.end if self.end is not None else np.zeros(ids.shape, dtype=bool)
        # What a text has of padding inside it belongs to it.
        is_filled = ids != self.padding
        filled = np.where(is_filled.any(axis=1), ids.shape[1] - is_filled[:, ::-1].argmax(axis=1), 0)
        return np.where(is_end.any(axis=1), is_end.argmax(axis=1) + 1, filled).astype(np.int64)
