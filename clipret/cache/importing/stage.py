"""Files of ready-made features -> a cache: the function behind `clipret import`."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from clipret.cache.access import explained
from clipret.cache.importing.arrow import ARROW_ENDINGS
from clipret.cache.importing.assembly import require_ids, write_features
from clipret.cache.importing.columns import Columns, choose_splits, require_different
from clipret.cache.importing.files import matching_files, open_features
from clipret.cache.importing.projections import read_projections
from clipret.cache.importing.rows import require_equal_copies
from clipret.cache.importing.sources import Source
from clipret.cache.importing.tables import Table, read_table
from clipret.cache.texts import ImpliedTexts
from clipret.config import SPLITS, ImportConfig, to_command
from clipret.config.data import column_names
from clipret.errors import DatasetError
from clipret.machine.progress import ProgressCallback, silent

# What clip-retrieval's `inference` writes.
_FOLDERS = {"images": "img_emb", "texts": "text_emb", "table": "metadata"}


def import_features(config: ImportConfig, *, on_progress: ProgressCallback = silent) -> dict:
    """Make a cache of features that are there already. They are read in pieces, and need no memory.

    on_progress  called with phase "image rows" and "text rows"

    Rows of the table that name the same image, one after the other, are one image with several captions where their
    features are equal. Killed at any moment, the same call goes on, to the same bytes; a cache that is there, whole,
    and holds the same is left as it is.

    Returns cache (path), fingerprint, images, captions, features (what they are, in words), widths, dtype, split_rule,
    remarks and seconds.

    Raises DatasetError when files are missing, do not fit each other or are not what was said, CacheMismatchError when
    the cache that is there was made of others, CacheError when it cannot be written.
    """
    command, config = to_command("import", config), _with_folder(config)
    sources = {
        side: open_features(text) if text is not None else None
        for side, text in (("image", config.images), ("text", config.texts))
    }
    for side, source in sources.items():
        if source is not None and not source.rows:
            raise DatasetError(f"the {side} features have no rows; expected at least one.")
    projections = None if config.projections is None else read_projections(config.projections)
    with explained(config.out):
        config.out.parent.mkdir(parents=True, exist_ok=True)
        table = _open_table(config)
        columns = _join(config, sources, table) if table else _in_step(config, sources)
        require_ids(columns)
    return write_features(
        config.out,
        columns,
        sources=sources,
        settings=config,
        projections=projections,
        command=command,
        on_progress=on_progress,
    )


def _with_folder(config: ImportConfig) -> ImportConfig:
    """The config with the files of clip-retrieval's folder in place of the folder."""
    if config.folder is None:
        return config
    if not config.folder.is_dir():
        raise DatasetError(f"there is no folder at {config.folder}; expected one that clip-retrieval wrote.")
    parts = {name: str(config.folder / part) for name, part in _FOLDERS.items() if (config.folder / part).is_dir()}
    if not {"images", "texts"} & set(parts):
        raise DatasetError(
            f"{config.folder} has no folder {_FOLDERS['images']} or {_FOLDERS['texts']}, as clip-retrieval writes "
            f"them; name the files with --images, --texts and --table."
        )
    return replace(config, folder=None, **parts)


def _open_table(config: ImportConfig) -> Table | None:
    if config.table is None:
        return None
    paths = matching_files(config.table, tuple(ARROW_ENDINGS))
    splits = config.split in (None, "given")
    named = column_names(config.columns)
    return read_table(paths, named, splits=splits, fold=config.fold, folder=config.out.parent)


def _join(config: ImportConfig, sources: Mapping[str, Source | None], table: Table) -> Columns:
    """The columns of features whose rows a table names."""
    images, captions = int(np.count_nonzero(table.starts)), int(table.captions.sum(dtype=np.int64))
    keep = _kept_rows(config, sources["image"], table, images=images)
    if sources["text"] is not None and sources["text"].rows != captions:
        raise DatasetError(
            f"the text features have {sources['text'].rows:,} rows, and {config.table} has {captions:,} captions; "
            f"expected a row of features for every caption, in the same order."
        )
    count = images if sources["image"] is not None else 0
    files = table.files if table.files is not None and count else ImpliedTexts(count, numbered=False)
    ids = table.ids if table.ids is not None and count else ImpliedTexts(count, numbered=True)
    if table.files is not None and config.fold and count:
        way_out = (
            "rows of one image follow each other, so sort all files by it, or keep every row as an image of its own "
            "with --no-fold."
        )
        require_different(table.files, what="image", way_out=way_out)
    splits, rule = _splits(config, table.codes, ids=ids, files=files)
    remarks = []
    if keep is not None:
        remarks.append(
            f"{table.rows:,} rows are {images:,} images: rows of one image, one after the other, were folded"
        )
    total = captions if sources["text"] is not None else 0
    return Columns(
        image_ids=ids,
        image_files=files,
        image_splits=splits,
        captions=table.texts if table.texts is not None and total else ImpliedTexts(total, numbered=False),
        caption_ids=ImpliedTexts(total, numbered=True),
        caption_images=_owners(table, images=count, captions=total),
        split_rule=rule,
        keep=keep,
        remarks=tuple(remarks),
    )


def _kept_rows(config: ImportConfig, source: Source | None, table: Table, *, images: int) -> np.ndarray | None:
    """(rows,) bool: the rows of features that are images, where some are copies; None: all."""
    if source is None or source.rows == images:
        return None
    if source.rows != table.rows:
        also = "" if images == table.rows else f" of {images:,} images"
        raise DatasetError(
            f"the image features have {source.rows:,} rows, and {config.table} has {table.rows:,} rows{also}; expected "
            f"a row of features for every row{', or for every image' if also else ''}, in the same order."
        )
    require_equal_copies(source, table.starts)
    return table.starts


def _owners(table: Table, *, images: int, captions: int) -> np.ndarray:
    """(M,) int64: the image of each caption; without images 0."""
    if not captions or not images:
        return np.zeros(captions, dtype=np.int64)
    owners = np.cumsum(table.starts, dtype=np.int64)
    owners -= 1
    return owners if (table.captions == 1).all() else np.repeat(owners, table.captions)


def _in_step(config: ImportConfig, sources: Mapping[str, Source | None]) -> Columns:
    """The columns of features without a table: the sides are row by row the same."""
    counts = {side: source.rows if source is not None else 0 for side, source in sources.items()}
    images, captions = counts["image"], counts["text"]
    if images and captions and images != captions:
        raise DatasetError(
            f"the image features have {images:,} rows, the text features {captions:,}; expected as many, row by row "
            f"the same, or a --table that says which image a caption is of."
        )
    ids, files = ImpliedTexts(images, numbered=True), ImpliedTexts(images, numbered=False)
    splits, rule = _splits(config, None, ids=ids, files=files)
    return Columns(
        image_ids=ids,
        image_files=files,
        image_splits=splits,
        captions=ImpliedTexts(captions, numbered=False),
        caption_ids=ImpliedTexts(captions, numbered=True),
        caption_images=np.arange(captions, dtype=np.int64) if images else np.zeros(captions, dtype=np.int64),
        split_rule=rule,
    )


def _splits(config: ImportConfig, codes: np.ndarray | None, *, ids, files) -> tuple[np.ndarray, str]:
    if not len(ids):
        return np.zeros(0, dtype=np.uint8), f"all are {config.split}" if config.split in SPLITS else "no images"
    return choose_splits(config.split, codes=codes, ids=ids, files=files)
