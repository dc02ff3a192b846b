"""Splits by hash of many packed texts, compiled: annotations.splits.split_by_hash makes a call of hashlib for each.

Source of the algorithm: FIPS 180-4, SHA-256.
"""

import math
from collections.abc import Mapping

import numpy as np

from clipret.cache.importing.spools import in_threads, packed_blocks
from clipret.cache.texts import ImpliedTexts, PackedTexts
from clipret.config import SPLITS
from clipret.machine.compiling import compiled

_SALT = np.frombuffer(b"clipret:", dtype=np.uint8)


def _fractions_of_roots(power: float, count: int) -> np.ndarray:
    """(count,) uint32: the first 32 bits behind the point of the square or cube roots of the first primes."""
    primes = [number for number in range(2, 312) if all(number % other for other in range(2, math.isqrt(number) + 1))]
    root = 2 if power == 0.5 else 3
    values = []
    for prime in primes[:count]:
        # The whole part of prime ** power * 2 ** 32, exactly.
        target, low, high = prime << (32 * root), 0, 1 << 40
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if middle**root <= target else (low, middle)
        values.append(low & 0xFFFFFFFF)
    return np.array(values, dtype=np.uint32)


_START, _ROUNDS = _fractions_of_roots(0.5, 8), _fractions_of_roots(1 / 3, 64)


def split_packed(texts: PackedTexts | ImpliedTexts, *, fractions: Mapping[str, float]) -> np.ndarray:
    """What split_by_hash gives of texts: (n,) uint8, with split name -> share as it takes them."""
    edges = np.cumsum(list(fractions.values()))
    codes = np.array([SPLITS.index(name) for name in fractions], dtype=np.uint8)

    def split(block: tuple[int, np.ndarray, np.ndarray]) -> np.ndarray:
        positions = _first_words(*block[1:], _SALT, _START, _ROUNDS).astype(np.float64) / 2.0**64
        return codes[np.searchsorted(edges[:-1], positions, side="right")]

    return np.concatenate([codes[:0], *in_threads(split, packed_blocks(texts))])


@compiled
def _rotated(word, by):
    return np.uint32((word >> np.uint32(by)) | (word << np.uint32(32 - by)))


@compiled
def _digest_block(state, words, rounds):
    """Take 16 words (64,) uint32, with room for the others behind them, into the state (8,) uint32."""
    for place in range(16, 64):
        early, late = words[place - 15], words[place - 2]
        first = _rotated(early, 7) ^ _rotated(early, 18) ^ (early >> np.uint32(3))
        second = _rotated(late, 17) ^ _rotated(late, 19) ^ (late >> np.uint32(10))
        # Sums of uint32 are uint64 to numba.
        words[place] = np.uint32(words[place - 16] + first + words[place - 7] + second)
    a, b, c, d, e, f, g, h = state[0], state[1], state[2], state[3], state[4], state[5], state[6], state[7]
    for place in range(64):
        choice = (e & f) ^ (~e & g)
        first = np.uint32(
            h + (_rotated(e, 6) ^ _rotated(e, 11) ^ _rotated(e, 25)) + choice + rounds[place] + words[place]
        )
        second = np.uint32((_rotated(a, 2) ^ _rotated(a, 13) ^ _rotated(a, 22)) + ((a & b) ^ (a & c) ^ (b & c)))
        h, g, f, e, d, c, b, a = g, f, e, np.uint32(d + first), c, b, a, np.uint32(first + second)
    state[0] += a
    state[1] += b
    state[2] += c
    state[3] += d
    state[4] += e
    state[5] += f
    state[6] += g
    state[7] += h


@compiled
def _first_words(data, ends, salt, start, rounds):
    """(n,) uint64: the first eight bytes of the sha256 of the salt and each text."""
    values = np.empty(ends.size, dtype=np.uint64)
    words, state, block = np.zeros(64, dtype=np.uint32), np.empty(8, dtype=np.uint32), np.zeros(64, dtype=np.uint8)
    begin = 0
    for row in range(ends.size):
        length = salt.size + ends[row] - begin
        state[:] = start
        # The text, a one bit, zeros, and the length in bits in the last eight bytes.
        count = (length + 72) // 64
        for number in range(count):
            first = 64 * number
            # Where the salt ends and where the text ends in this block.
            salted, filled = max(0, min(64, salt.size - first)), max(0, min(64, length - first))
            for place in range(salted):
                block[place] = salt[first + place]
            for place in range(salted, filled):
                block[place] = data[begin + first + place - salt.size]
            block[filled:] = 0
            if 0 <= length - first < 64:
                block[length - first] = 0x80
            for place in range(16):
                at = 4 * place
                high = (np.uint32(block[at]) << np.uint32(24)) | (np.uint32(block[at + 1]) << np.uint32(16))
                low = (np.uint32(block[at + 2]) << np.uint32(8)) | np.uint32(block[at + 3])
                words[place] = np.uint32(high | low)
            if number == count - 1:
                words[14] = np.uint32((8 * length) >> 32)
                words[15] = np.uint32((8 * length) & 0xFFFFFFFF)
            _digest_block(state, words, rounds)
        values[row] = (np.uint64(state[0]) << np.uint64(32)) | np.uint64(state[1])
        begin = ends[row]
    return values
