"""Captions that a table or file has as one text, a list in Python's or JSON's notation: taken apart."""

import ast
import dataclasses
import json

import numpy as np

from clipret.datasets.base import RetrievalDataset, made_caption_ids
from clipret.datasets.parsing import counted

# A list of captions is some lines long; what is longer is text.
_MOST_LETTERS = 1 << 20
_SHOWN = 40


def split_caption_lists(dataset: RetrievalDataset) -> RetrievalDataset:
    """The data set with each caption that is a list of texts, such as `["a dot", "a spot"]`, as several captions.

    A list is a text that JSON or Python reads as a list of one or more texts or nulls, a null being an empty caption:
    `[dog]` and `[laughs] a man` are captions. Caption ids are made anew, or, where the data set has its own, numbered.
    """
    lists = {row: texts for row, text in enumerate(dataset.captions) if (texts := parse_list(text)) is not None}
    if not lists:
        return dataset
    captions, ids, rows = [], [], []
    for row, text in enumerate(dataset.captions):
        texts = lists.get(row, [text])
        captions += texts
        own = dataset.caption_ids[row]
        ids += [own] if row not in lists else [f"{own}.{place}" for place in range(len(texts))]
        rows += [row] * len(texts)
    made = dataset.caption_ids == made_caption_ids(dataset.image_ids, dataset.caption_images)
    first = dataset.captions[next(iter(lists))]
    shown = first if len(first) <= _SHOWN else f"{first[: _SHOWN - 3]}..."
    remark = (
        f"{counted(len(lists), 'caption')} written as lists, such as {shown}, read as "
        f"{counted(sum(map(len, lists.values())), 'caption')}"
    )
    return dataclasses.replace(
        dataset,
        captions=captions,
        caption_ids=None if made else ids,
        caption_images=dataset.caption_images[np.array(rows, dtype=np.int64)],
        remarks=(*dataset.remarks, remark),
    )


def parse_list(text: str) -> list[str] | None:
    """The captions of a text that is a list of them; None for any other text."""
    text = text.strip()
    if not (text.startswith("[") and text.endswith("]")) or len(text) > _MOST_LETTERS:
        return None
    for parse in (json.loads, ast.literal_eval):
        try:
            items = parse(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
        if isinstance(items, list) and items and all(item is None or isinstance(item, str) for item in items):
            return ["" if item is None else item for item in items]
    return None
