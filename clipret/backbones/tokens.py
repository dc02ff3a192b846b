"""Captions -> CLIP's token ids: equal to clip's own tokenizer, and many times faster on plain text."""

import numpy as np
import torch

from clipret.backbones.clip_package import ClipFirst, import_clip

# Context length of every published CLIP, start and end included.
CONTEXT_LENGTH = 77
# Most words in the table, and their greatest length: at most 20 MB for any number of captions.
_WORDS = 65_536
_LONGEST_WORD = 64


class _Words(dict):
    """word -> uint16 bytes of its tokens, computed on demand by clip's tokenizer."""

    def __init__(self, encode):
        super().__init__()
        self._encode = encode

    def __missing__(self, word: str) -> bytes:
        tokens = self._encode(word)
        if len(word) <= _LONGEST_WORD:
            if len(self) >= _WORDS:
                self.clear()
            self[word] = tokens
        return tokens


class Tokenizer:
    """clip's tokenizer with a table of words. Can be pickled; the table is not pickled.

    In printable ASCII without '&', clip's cleaning changes only white space and case, and no token spans white space;
    so the tokens of a text are those of its words, concatenated. Other text is tokenized by clip as a whole.
    """

    def __init__(self, *, context_length: int = CONTEXT_LENGTH):
        self.context_length = context_length
        self._clip = import_clip().clip._tokenizer
        self._start, self._end = (
            np.uint16(self._clip.encoder[token]).tobytes() for token in ("<|startoftext|>", "<|endoftext|>")
        )
        self._words = _Words(self._encode)

    def __reduce__(self):
        return _restore, (ClipFirst(), self.context_length)

    def __call__(self, captions: list[str]) -> tuple[list[np.ndarray], np.ndarray]:
        """uint16 ids of the captions, start and end included, and (B,) int64 token counts before truncation.

        A caption of more than context_length tokens is cut to that length, and its last token replaced by the end of
        text, like clip.tokenize(truncate=True).
        """
        whole = [self._ids(caption) for caption in captions]
        most = 2 * self.context_length
        cut = [ids if len(ids) <= most else ids[: most - 2] + self._end for ids in whole]
        counts = np.array([len(ids) // 2 for ids in whole], dtype=np.int64)
        return [np.frombuffer(ids, dtype=np.uint16) for ids in cut], counts

    def count(self, text: str) -> int:
        """Tokens of a text, start and end included, before truncation."""
        return len(self._ids(text)) // 2

    def is_too_long(self, text: str) -> bool:
        """Whether a text has more than context_length tokens, start and end included."""
        # In plain text a token covers a character or more; clip's cleaning may lengthen other text.
        short = len(text) <= self.context_length - 2 and is_plain(text)
        return not short and self.count(text) > self.context_length

    def _ids(self, text: str) -> bytes:
        if is_plain(text):
            return self._start + b"".join(map(self._words.__getitem__, text.lower().split(" "))) + self._end
        return self._start + self._encode(text) + self._end

    def _encode(self, text: str) -> bytes:
        tokens = np.array(self._clip.encode(text), dtype=np.uint16).tobytes()
        # clip itself caches every word without limit; its first two entries are the start and the end of text.
        if len(self._clip.cache) > _WORDS:
            self._clip.cache = dict(list(self._clip.cache.items())[:2])
        return tokens


def _restore(_, context_length: int) -> Tokenizer:
    return Tokenizer(context_length=context_length)


def is_plain(text: str) -> bool:
    """Whether clip's cleaning treats the words of this text independently."""
    return text.isascii() and text.isprintable() and "&" not in text


def pad(tokens: list[np.ndarray]) -> torch.Tensor:
    """uint16 ids of B captions -> (B, L) int64, L the longest of them, padded with zeros like clip's."""
    lengths = np.array([len(ids) for ids in tokens], dtype=np.int64)
    padded = np.zeros((len(tokens), lengths.max(initial=0)), dtype=np.int64)
    if len(tokens):
        padded[np.arange(padded.shape[1]) < lengths[:, None]] = np.concatenate(tokens)
    return torch.from_numpy(padded)
