import pickle
import random
import string

import numpy as np
import pytest
import torch

from clipret.backbones import load_backbone, tokens
from clipret.backbones.tokens import Tokenizer, is_plain, pad

WORDS = (
    "dog",
    "DOG's",
    "unbelievably",
    "3,000",
    "!!!",
    "don't",
    "a-b-c",
    "<|endoftext|>",
    "<|STARTOFTEXT|>x",
    "it'llI'M",
    "\x1b[1m",
    "\u00e9t\u00e9",
    "&amp;",
    "\ud55c\uad6d",
    "<b>",
    "a\x1cb",
    "\t\n",
    "\ufb01sh",
)


def random_texts(count: int) -> list[str]:
    generator = random.Random(0)
    texts = ["", " ", "   a  dog ", "dog " * 74, "dog " * 75, "dog " * 76, "x" * 300, "!" * 76, "0" * 80, "&" * 80]
    for _ in range(count):
        if generator.random() < 0.3:
            letters = generator.choices(string.printable, k=generator.randrange(0, 120))
            texts.append("".join(letters))
        else:
            kept = WORDS if generator.random() < 0.5 else WORDS[:10]
            texts.append(generator.choice((" ", "  ", "")).join(generator.choices(kept, k=generator.randrange(1, 60))))
    return texts


def test_tokens_are_those_of_clip_for_any_text():
    import clip

    texts = random_texts(2000)
    ids_of_texts, counts = Tokenizer()(texts)
    expected = clip.tokenize(texts, truncate=True)
    assert 300 < sum(map(is_plain, texts)) < len(texts) - 300
    for text, ids, count, row in zip(texts, ids_of_texts, counts, expected, strict=True):
        assert ids.dtype == np.uint16
        assert count == len(clip.clip._tokenizer.encode(text)) + 2
        assert len(ids) == min(count, 77)
        np.testing.assert_array_equal(ids, row[: len(ids)].numpy())
        assert not row[len(ids) :].any()
    assert torch.equal(pad(ids_of_texts), expected)


def test_a_shorter_context_truncates_as_clip_does():
    import clip

    texts = random_texts(200)
    ids, _ = Tokenizer(context_length=16)(texts)
    assert torch.equal(pad(ids), clip.tokenize(texts, context_length=16, truncate=True))


def test_tokens_are_counted_before_truncation(checkpoints):
    backbone = load_backbone(str(checkpoints["resnet"]))
    ids, counts = backbone.tokenize(["", "a dog", "dog " * 75, "dog " * 76, "dog " * 200])
    np.testing.assert_array_equal(counts, [2, 4, 77, 78, 202])
    assert counts.dtype == np.int64
    assert [len(row) for row in ids] == [2, 4, 77, 77, 77]
    assert all(row[-1] == 49407 for row in ids)


def test_a_pickled_tokenizer_leaves_the_model_behind(checkpoints):
    tokenizer = load_backbone(str(checkpoints["resnet"])).tokenizer
    expected, _ = tokenizer(WORDS)
    pickled = pickle.dumps(tokenizer)
    assert len(pickled) < 1000
    ids, _ = pickle.loads(pickled)(WORDS)
    assert all(map(np.array_equal, ids, expected))


def test_padding_goes_to_the_longest_of_the_batch():
    padded = pad([np.array([1, 2], dtype=np.uint16), np.array([3, 4, 5, 6], dtype=np.uint16)])
    assert padded.dtype == torch.int64
    assert padded.tolist() == [[1, 2, 0, 0], [3, 4, 5, 6]]
    assert pad([]).shape == (0, 0)


def test_ever_new_words_do_not_fill_the_memory(monkeypatch):
    import clip

    monkeypatch.setattr(tokens, "_WORDS", 100)
    monkeypatch.setattr(clip.clip._tokenizer, "cache", dict(list(clip.clip._tokenizer.cache.items())[:2]))
    tokenizer = Tokenizer()
    texts = [f"w{number}x{'y' * (number % 90)} <|endoftext|>" for number in range(500)]
    ids, _ = tokenizer(texts)
    assert len(tokenizer._words) <= 100
    assert all(len(word) <= 64 for word in tokenizer._words)
    # Three pieces at most for each of the words since the last look.
    assert len(clip.clip._tokenizer.cache) <= 110
    assert torch.equal(pad(ids), clip.tokenize(texts, truncate=True)[:, : pad(ids).shape[1]])


@pytest.mark.parametrize("context_length", [77, 16])
def test_texts_too_long_for_the_model_are_recognised_without_encoding_all_of_them(monkeypatch, context_length):
    """Against clip's own tokens of every text, at and around the limit."""
    import clip

    tokenizer = Tokenizer(context_length=context_length)
    texts = [*random_texts(2000), "0" * (context_length - 2), "\u3042" * 26, "\u00bd" * 40]
    expected = [len(clip.clip._tokenizer.encode(text)) + 2 > context_length for text in texts]
    assert [tokenizer.is_too_long(text) for text in texts] == expected
    assert 200 < sum(expected) < 1950

    def fail(_):
        raise AssertionError("a short plain text was encoded")

    monkeypatch.setattr(clip.clip._tokenizer, "encode", fail)
    assert not tokenizer.is_too_long("a dog on beach")
    with pytest.raises(AssertionError, match="was encoded"):
        tokenizer.is_too_long("\u00e9t\u00e9")
