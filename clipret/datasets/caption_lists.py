"""Captions that a table or file has as one text, a list in Python's or JSON's notation: taken apart."""

import ast
import dataclasses
import io
import json
import tokenize
import warnings

import numpy as np

from clipret.annotations import default_caption_ids
from clipret.datasets.base import RetrievalDataset
from clipret.datasets.parsing import counted

# A list of captions is some lines long; what is longer is text.
_MOST_LETTERS = 1 << 16
_BLANK = (tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER)
# As Python, JSON and numpy write that there is none.
_NULLS = ("None", "null", "nan")
_SHOWN = 40


def split_caption_lists(dataset: RetrievalDataset) -> RetrievalDataset:
    """The data set with each caption that is a list of texts, such as `["a dot", "a spot"]`, as several captions.

    A list is a text that JSON or Python reads as a list of texts or nulls, a null being an empty caption: `[dog]` and
    `[laughs] a man` are captions; `[]` is one too where no other caption is a list. Caption ids are made anew, or,
    where the data set has its own, numbered.
    """
    lists = {row: texts for row, text in enumerate(dataset.captions) if (texts := parse_list(text)) is not None}
    if not any(lists.values()):
        return dataset
    captions, ids, rows = [], [], []
    for row, text in enumerate(dataset.captions):
        texts = lists.get(row, [text])
        captions += texts
        own = dataset.caption_ids[row]
        ids += [own] if row not in lists else [f"{own}.{place}" for place in range(len(texts))]
        rows += [row] * len(texts)
    numbered = dataset.caption_ids == default_caption_ids(dataset.image_ids, dataset.caption_images)
    first = next(dataset.captions[row] for row, texts in lists.items() if texts)
    shown = first if len(first) <= _SHOWN else f"{first[: _SHOWN - 3]}..."
    remark = (
        f"{counted(len(lists), 'caption')} written as lists, such as {shown}, read as "
        f"{counted(sum(map(len, lists.values())), 'caption')}"
    )
    return dataclasses.replace(
        dataset,
        captions=captions,
        caption_ids=None if numbered else ids,
        caption_images=dataset.caption_images[np.array(rows, dtype=np.int64)],
        remarks=(*dataset.remarks, remark),
    )


def parse_list(text: str) -> list[str] | None:
    """The captions of a text that is a list of them; None for any other text.

    Of Python's notation, numpy's is read too: `['a dog' 'a cat']`, whose items have no commas between them.
    """
    text = text.strip()
    if not (text.startswith("[") and text.endswith("]")) or len(text) > _MOST_LETTERS:
        return None
    try:
        items = json.loads(text)
    except (ValueError, RecursionError):
        return _python_list(text)
    if isinstance(items, list) and all(item is None or isinstance(item, str) for item in items):
        return ["" if item is None else item for item in items]
    return None


def _python_list(text: str) -> list[str] | None:
    """The texts between the brackets, token by token: read as a whole, texts without a comma would become one."""
    items, after_comma = [], True
    try:
        tokens = [token for token in tokenize.generate_tokens(io.StringIO(text).readline) if token.type not in _BLANK]
        if [token.string for token in (tokens[0], tokens[-1])] != ["[", "]"]:
            return None
        for token in tokens[1:-1]:
            if token.string == ",":
                if after_comma:
                    return None
                after_comma = True
                continue
            items.append(_item(token))
            after_comma = False
    except (tokenize.TokenError, SyntaxError, ValueError, IndexError, RecursionError, MemoryError):
        return None
    return items


def _item(token: tokenize.TokenInfo) -> str:
    """The text of a token; empty for a null. Raises ValueError on any other."""
    if token.type == tokenize.NAME and token.string in _NULLS:
        return ""
    if token.type != tokenize.STRING:
        raise ValueError(f"{token.string} is no text")
    with warnings.catch_warnings():
        # Of backslashes that escape nothing.
        warnings.simplefilter("ignore")
        value = ast.literal_eval(token.string)
    if not isinstance(value, str):
        raise ValueError(f"{token.string} is no text")
    return value
