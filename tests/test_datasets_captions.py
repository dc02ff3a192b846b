import pytest

from clipret.config import DatasetConfig
from clipret.datasets.captions import clean_caption, prompted


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
    assert prompted(["a dog.", "{}"], config) == ["A photo of a dog.", "A photo of ."]
    assert prompted(["a dog."], DatasetConfig(dataset="emoji")) == ["a dog."]
