"""The annotations of a data set: what passes from a reader through a cache to a merged cache."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np

from clipret.annotations.counting import caption_places


@dataclass(frozen=True, kw_only=True)
class Annotations:
    """N images and M captions in a fixed order.

    image_ids       N strings, the data set's own ids, all different
    image_files     N paths relative to the data set's root, with forward slashes; a member of a tar file is
                    FILE.tar/MEMBER
    image_splits    (N,) uint8, indices into config.SPLITS
    captions        M strings, as the annotations have them
    caption_ids     M strings; None: those of `default_caption_ids`
    caption_images  (M,) int64, the row of each caption's image
    """

    # In this order the columns are hashed.

    image_ids: list[str]
    image_files: list[str]
    image_splits: np.ndarray
    captions: list[str]
    caption_ids: list[str] | None = None
    caption_images: np.ndarray

    def __post_init__(self):
        if self.caption_ids is None:
            object.__setattr__(self, "caption_ids", default_caption_ids(self.image_ids, self.caption_images))

    @property
    def columns(self) -> dict[str, list[str] | np.ndarray]:
        """The six columns by their names: what another kind of annotations is made with."""
        return {field.name: getattr(self, field.name) for field in fields(Annotations)}

    @property
    def annotation_sha256(self) -> str:
        """sha256 over the ids, files, splits, captions and their order: everything a reader decides."""
        digest = hashlib.sha256()
        for column in self.columns.values():
            values = column.tolist() if isinstance(column, np.ndarray) else list(column)
            digest.update(json.dumps(values, ensure_ascii=False).encode(errors="surrogatepass"))
        return digest.hexdigest()


def default_caption_ids(image_ids: list[str], caption_images: np.ndarray) -> list[str]:
    """M ids: the image's id, a hash sign, and the caption's place from 0 among the captions of the image."""
    places = caption_places(caption_images).tolist()
    return [f"{image_ids[image]}#{place}" for image, place in zip(caption_images.tolist(), places, strict=True)]


def concatenate(parts: Sequence[Annotations]) -> Annotations:
    """The images and captions of several data sets, one after the other."""
    starts = np.cumsum([0, *(len(part.image_ids) for part in parts[:-1])])
    texts = ("image_ids", "image_files", "captions", "caption_ids")
    return Annotations(
        **{name: [text for part in parts for text in getattr(part, name)] for name in texts},
        image_splits=np.concatenate([part.image_splits for part in parts]),
        caption_images=np.concatenate([start + part.caption_images for start, part in zip(starts, parts, strict=True)]),
    )
