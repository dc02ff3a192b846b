import pytest

from clipret.backbones.tokens import Tokenizer
from clipret.config import DatasetConfig
from clipret.datasets.captions import clean_caption, is_empty, prompted


@pytest.mark.parametrize(
    ("how", "caption", "cleaned"),
    [
        ("none", "  A dog's  life. ", "  A dog's  life. "),
        ("lower", "  A Dog's  LIFE.\t", "a dog's life."),
        ("lower", "\u00c9T\u00c9", "\u00e9t\u00e9"),
        ("strip-punctuation", "A dog's life, (well-kept)!", "A dogs life wellkept"),
        ("strip-punctuation", "\u201cYes\u201d \u2014 no\u3002", "Yes no"),
        ("strip-punctuation", "1 + 1 = 2 $", "1 + 1 = 2 $"),
        ("strip-punctuation", " . , ! ", ""),
    ],
)
def test_captions_are_cleaned_as_asked(how, caption, cleaned):
    assert clean_caption(caption, how) == cleaned


def test_a_caption_is_cleaned_and_then_put_into_the_prompt():
    config = DatasetConfig(dataset="emoji", prompt="A photo of {}.", caption_clean="strip-punctuation")
    assert prompted(["a dog.", "{}"], prompt=config.prompt, cleaning=config.caption_clean) == [
        "A photo of a dog.",
        "A photo of .",
    ]
    assert prompted(["a dog."], prompt="{}", cleaning="none") == ["a dog."]


EMPTY = {
    "nothing": "",
    "white space": " \t\n",
    "entity": "&nbsp;",
    "entities": "&nbsp; &#32;&ensp;\u3000",
    "entity of an entity": "&amp;nbsp;",
    "zero-width space": "\u200b",
    "its entity": "&ZeroWidthSpace;&#8203;",
    "soft hyphen": "\u00ad&shy;",
    "joiners and marks of direction": "\u200c\u200d\u2060\u200e\u202a\u180e",
    "byte order mark": "\ufeff",
    "misread no-break space": "Â\xa0",
    "misread byte order mark": "ï»¿",
    "terminal escape": "\x1b[36m",
    "controls": "\x07\x01",
    "Hangul filler": "\u3164 \u115f\u1160\uffa0",
    "Braille blank": "\u2800\u2800",
    "variation selectors": "\ufe0f\ufe0e\U000e0001\u034f",
}


@pytest.mark.parametrize("caption", EMPTY.values(), ids=EMPTY)
def test_what_shows_nothing_is_an_empty_caption(caption):
    assert is_empty(caption)


@pytest.mark.parametrize(
    "caption",
    [
        "-",
        "a",
        "&",
        "&amp;",
        "x&nbsp;",
        "它",
        "é",
        "\u200bdot",
        "👩\u200d💻",
        "❤\ufe0f",
        "Â",
        "<br>",
        "&foo;",
        "\u2801",
    ],
)
def test_what_shows_anything_is_none(caption):
    assert not is_empty(caption)


def test_every_caption_that_clip_reads_no_token_of_is_empty():
    pieces = [*EMPTY.values(), "a", "-", "é", "Â", "\xa0", "&", ";", "nbsp", "\x1b[", "m", "3", "它", "â€‹", "<"]
    tokenizer = Tokenizer()
    texts = [first + second for first in pieces for second in pieces]
    # The two that are left are start and end.
    wordless = [text for text in texts if tokenizer.count(text) == 2]
    assert len(wordless) > 50
    assert [text for text in wordless if not is_empty(text)] == []
