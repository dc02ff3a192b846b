"""Arrays, memory maps and iterators of ready-made features -> a cache."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from clipret.cache.access import explained
from clipret.cache.importing.assembly import require_ids, write_features
from clipret.cache.importing.columns import Columns, choose_splits, split_codes
from clipret.cache.importing.projections import check_projections
from clipret.cache.importing.sources import Source, array_source, stream_source
from clipret.cache.importing.spools import spool_texts
from clipret.cache.texts import ImpliedTexts
from clipret.config import SPLITS, FeaturesConfig
from clipret.errors import DatasetError, UsageError
from clipret.machine.progress import ProgressCallback, silent

_TEXTS = ("captions", "image_ids", "image_files", "caption_ids")
_RULES = ("hash", *SPLITS)


def write_cache(
    path: Path | str,
    *,
    images=None,
    texts=None,
    captions: Iterable[str] | None = None,
    caption_images=None,
    splits=None,
    projections: Mapping[str, np.ndarray] | None = None,
    on_progress: ProgressCallback = silent,
    **more,
) -> dict:
    """Make a cache of features that you have: what `clipret import` does with files.

    images, texts   features of N images and of M captions: an array (rows, width) or what is sliced like one, such as a
                    memory map; or an iterator of blocks of rows, which need not be in memory together. One of the
                    two may be None; such a cache can be looked at, and not be trained or measured on
    captions        M texts, in any iterable; None: there are none
    caption_images  (M,) the row of each caption's image; None: row by row the same
    splits          of the N images: names or indices of train, val, test, restval; the name of one for all; or hash,
                    for 80/10/10 by a hash of the ids, else of the files, else of the row numbers. None: hash
    projections     the encoder's own, with image/weight (D, E), text/weight and perhaps image/bias, text/bias and
                    logit_scale: the features are those before them. None: they are final embeddings, and heads start as
                    the identity, or, with kind raw, features of two encoders that were never aligned
    on_progress     called with phase "image rows" and "text rows"
    more            settings of FeaturesConfig (kind, model, dataset, root, background, prompt, dtype), and image_ids,
                    image_files (N texts, ids all different), caption_ids (M texts)

    How many rows an iterator has is asked of the other arguments: of the images splits, image_ids or image_files, else
    caption_images, else texts; of the captions caption_images or captions, else images. Interrupted, the same call goes
    on where it stopped: blocks that are there are compared, and not written again.

    Returns what import_features returns. Raises UsageError, DatasetError, CacheMismatchError and CacheError as it does.
    """
    path = Path(path)
    columns_of_texts = {name: more.pop(name, None) for name in _TEXTS[1:]} | {"captions": captions}
    settings = FeaturesConfig(**more)
    if images is None and texts is None:
        raise UsageError("write_cache needs images, texts or both.")
    if projections is not None:
        projections = check_projections(projections, name="projections")
        if settings.kind not in (None, "raw"):
            raise UsageError(
                f"kind is '{settings.kind}' with projections; features that go through projections are raw."
            )
    with explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        spooled = {
            name: None if values is None else spool_texts(values, path.parent, unique=name == "image_ids")
            for name, values in columns_of_texts.items()
        }
    owners = None if caption_images is None else _indices(caption_images)
    sources = _sources(images, texts, splits=splits, owners=owners, spooled=spooled)
    columns = _columns(sources, owners=owners, splits=splits, spooled=spooled)
    require_ids(columns)
    return write_features(
        path,
        columns,
        sources=sources,
        settings=settings,
        projections=projections,
        command=f"clipret.write_cache({str(path)!r}, ...)",
        on_progress=on_progress,
    )


def _sources(images, texts, *, splits, owners: np.ndarray | None, spooled: Mapping) -> dict[str, Source | None]:
    """The features of both sides; of iterators the other arguments say how many rows there are."""

    def image_rows() -> int | None:
        if splits is not None and not isinstance(splits, str):
            return len(splits)
        columns = [spooled[name] for name in ("image_ids", "image_files") if spooled[name] is not None]
        if columns:
            return len(columns[0])
        if owners is not None:
            return int(owners.max()) + 1 if len(owners) else 0
        return len(texts) if hasattr(texts, "shape") else len(spooled["captions"] or ()) or None

    def text_rows() -> int | None:
        for column in (owners, spooled["captions"], spooled["caption_ids"]):
            if column is not None:
                return len(column)
        return len(images) if hasattr(images, "shape") else image_rows()

    sources = {
        "image": _source(images, "images", rows=image_rows),
        "text": _source(texts, "texts", rows=text_rows),
    }
    for name, source in sources.items():
        if source is not None and not source.rows:
            raise DatasetError(f"the {name} features have no rows; expected at least one.")
    return sources


def _source(values, name: str, *, rows: Callable[[], int | None]) -> Source | None:
    if values is None:
        return None
    if isinstance(values, list | tuple):
        raise UsageError(f"{name} is a {type(values).__name__}; expected an array, or an iterator of arrays.")
    if hasattr(values, "shape"):
        return array_source(values, name)
    if not isinstance(values, Iterable):
        raise UsageError(f"{name} is {type(values).__name__}; expected an array, or an iterator of arrays.")
    count = rows()
    if count is None:
        raise UsageError(
            f"{name} is an iterator, and nothing says how many rows it has; give caption_images and splits."
        )
    return stream_source(values, name, rows=count)


def _columns(sources: Mapping[str, Source | None], *, owners: np.ndarray | None, splits, spooled: Mapping) -> Columns:
    counts = {side: 0 if source is None else source.rows for side, source in sources.items()}
    images, captions = counts["image"], counts["text"]
    for name, values in spooled.items():
        side, count = ("image", images) if name.startswith("image") else ("text", captions)
        if values is not None and len(values) != count:
            raise DatasetError(
                f"{name} has {len(values):,} entries, the {side} features {count:,} rows; expected as many."
            )

    def texts(name: str, count: int) -> Sequence[str]:
        return spooled[name] if spooled[name] is not None else ImpliedTexts(count, numbered=name.endswith("ids"))

    ids, files = texts("image_ids", images), texts("image_files", images)
    codes, rule = _split_codes(splits, ids=ids, files=files)
    return Columns(
        image_ids=ids,
        image_files=files,
        image_splits=codes,
        captions=texts("captions", captions),
        caption_ids=texts("caption_ids", captions),
        caption_images=_owners(owners, images=images, captions=captions),
        split_rule=rule,
    )


def _owners(owners: np.ndarray | None, *, images: int, captions: int) -> np.ndarray:
    if not images:
        return np.zeros(captions, dtype=np.int64)
    if owners is None:
        if captions not in (0, images):
            raise DatasetError(
                f"the image features have {images:,} rows, the text features {captions:,}; expected as many, row by "
                f"row the same, or caption_images that says which image a caption is of."
            )
        return np.arange(captions, dtype=np.int64)
    if len(owners) != captions:
        raise DatasetError(f"caption_images has {len(owners):,} entries, the text features {captions:,} rows.")
    wrong = np.flatnonzero((owners < 0) | (owners >= images))
    if len(wrong):
        raise DatasetError(
            f"caption_images has {owners[wrong[0]]} in row {wrong[0]}; expected rows of images, 0 to {images - 1}."
        )
    return owners


def _indices(values) -> np.ndarray:
    array = np.asarray(values)
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise UsageError(f"caption_images is {array.dtype} of the shape {array.shape}; expected whole numbers (M,).")
    return array.astype(np.int64, copy=False)


def _split_codes(splits, *, ids: Sequence[str], files: Sequence[str]) -> tuple[np.ndarray, str]:
    if not len(ids):
        return np.zeros(0, dtype=np.uint8), "no images"
    if splits is None or isinstance(splits, str):
        if splits not in (None, *_RULES):
            raise UsageError(f"splits is '{splits}'; expected {', '.join(_RULES)}, or an entry for every image.")
        return choose_splits(splits, codes=None, ids=ids, files=files)
    array = np.asarray(splits)
    if array.shape != (len(ids),):
        raise DatasetError(f"splits has the shape {array.shape}; expected an entry for each of {len(ids):,} images.")
    if array.dtype.kind in "iu":
        if array.min() < 0 or array.max() >= len(SPLITS):
            raise DatasetError(f"splits has {array.min()} to {array.max()}; expected 0 to {len(SPLITS) - 1}.")
        return array.astype(np.uint8), "given"
    if array.dtype.kind not in "UO":
        raise UsageError(f"splits holds {array.dtype}; expected names, or indices of {', '.join(SPLITS)}.")
    return split_codes(array.tolist(), where="splits"), "given"
