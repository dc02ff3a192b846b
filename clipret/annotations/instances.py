"""COCO's object annotations (instances_*.json): which categories each image has objects of.

A file of train has 450 MB, of which this needs two numbers an object: they are picked out of the mapped file, so that
neither its text nor its outlines are ever in memory.
"""

import json
import mmap
import re
from collections import defaultdict
from pathlib import Path

from clipret.machine.files import require_file

# Names of members: a quote within a text has a backslash before it. Every object has both, in any order.
_NUMBER = re.compile(rb'"(image|category)_id"\s*:\s*(\d+)')
_CATEGORIES = re.compile(rb'"categories"\s*:\s*(?=\[)')
_MOST_BYTES = 1 << 20


def read_instances(path: Path, *, images: set[int]) -> dict[str, set[int]]:
    """Name of category -> the ids of those of these images that have an object of it.

    Raises OSError, and ValueError when it is not one of COCO's files of instances.
    """
    if not require_file(path):
        raise ValueError("it is empty")
    of_numbers: dict[int, set[int]] = defaultdict(set)
    with path.open("rb") as file:
        # Closed with the last match that points into it, which an error keeps.
        content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    numbers = _NUMBER.finditer(content)
    for first in numbers:
        second = next(numbers, None)
        pair = {first[1]: int(first[2])} | ({second[1]: int(second[2])} if second else {})
        if len(pair) != 2:
            raise ValueError("its annotations have not an image_id and a category_id each")
        if pair[b"image"] in images:
            of_numbers[pair[b"category"]].add(pair[b"image"])
    names = _names(content)
    absent = set(of_numbers) - set(names)
    if absent:
        raise ValueError(f"it has objects of category {min(absent)}, which its categories do not name")
    return {names[number]: of_images for number, of_images in sorted(of_numbers.items())}


def _names(content: mmap.mmap) -> dict[int, str]:
    place = _CATEGORIES.search(content)
    if place is None:
        raise ValueError("it has no categories")
    text = content[place.end() : place.end() + _MOST_BYTES].decode("utf-8", "replace")
    try:
        listed, _ = json.JSONDecoder().raw_decode(text)
        return {int(entry["id"]): str(entry["name"]) for entry in listed}
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        raise ValueError("its categories are no list of ids and names") from None
