"""COCO's caption JSON: `images` with id and file_name, `annotations` with id, image_id and caption."""

import contextlib
import io
from dataclasses import dataclass
from pathlib import Path

from clipret.datasets.parsing import listed, read_json, repeated
from clipret.errors import DatasetError

_EXPECTED = {"images": {"id": int, "file_name": str}, "annotations": {"id": int, "image_id": int, "caption": str}}


@dataclass(frozen=True)
class CocoImage:
    """An image of a caption file: its integer id, file name, and (id, text) of its captions, ascending by id."""

    id: int
    file_name: str
    captions: list[tuple[int, str]]


def read_captions(path: Path) -> list[CocoImage]:
    """The images of one caption file, ascending by id, those without captions included.

    Raises DatasetError when the file is not JSON or not of this form, an id is there twice, or a caption is of an
    image that is not there.
    """
    return captions_of(read_json(path), path)


def captions_of(content, path: Path) -> list[CocoImage]:
    """The images of a caption file whose JSON has been read. Order and errors as those of read_captions."""
    # pycocotools loads slowly, and readers of other formats have no use for it.
    from pycocotools.coco import COCO

    _require_form(path, content)
    coco = COCO()
    coco.dataset = content
    # pycocotools prints what it does.
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
    strangers = [image for image in coco.imgToAnns if image not in coco.imgs]
    if strangers:
        count = sum(len(coco.imgToAnns[image]) for image in strangers)
        raise DatasetError(
            f"{path}: {count:,} captions are of images that it does not list: {listed(strangers)}; "
            f"expected every image_id among the ids of `images`."
        )
    # Read through get: the index makes an entry for whatever it is asked.
    return [
        CocoImage(
            id=image,
            file_name=coco.imgs[image]["file_name"],
            captions=sorted((entry["id"], entry["caption"] or "") for entry in coco.imgToAnns.get(image, [])),
        )
        for image in sorted(coco.imgs)
    ]


def _require_form(path: Path, content) -> None:
    if not isinstance(content, dict) or not all(isinstance(content.get(part), list) for part in _EXPECTED):
        actual = ", ".join(content) or "nothing" if isinstance(content, dict) else f"a {type(content).__name__}"
        raise DatasetError(
            f"{path} is not a COCO caption file: it has {actual}; expected lists images and annotations."
        )
    for part, fields in _EXPECTED.items():
        for place, entry in enumerate(content[part]):
            for name, kind in fields.items():
                value = entry.get(name) if isinstance(entry, dict) else None
                if name == "caption" and value is None and isinstance(entry, dict) and name in entry:
                    # Read as an empty caption, which is left out with a remark as others are.
                    continue
                if not isinstance(value, kind) or isinstance(value, bool):
                    actual = f"is {value!r}" if isinstance(entry, dict) and name in entry else "is not there"
                    raise DatasetError(
                        f"{path}: {name} of {part}[{place}] {actual}; expected "
                        f"{'a whole number' if kind is int else 'text'}, as in COCO's caption files."
                    )
        if twice := repeated(entry["id"] for entry in content[part]):
            raise DatasetError(
                f"{path}: {len(twice):,} ids are repeated among {part}: {listed(twice)}; expected each once."
            )
