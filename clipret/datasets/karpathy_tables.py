"""Karpathy's split files as tables, as the Hugging Face hub has them: a row an image, or a row a sentence.

Flickr30k's has filename, img_id, split, sentids and the texts as `caption` or `raw`; COCO's has filepath, filename,
imgid, cocoid, split, sentids and the texts as `sentences`, `sentences_raw`, `captions` or `raw`. The images are in a
column of the table, or files beside it.
"""

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import numpy as np

from clipret.config import SPLITS, DatasetConfig
from clipret.datasets import load_function
from clipret.datasets.base import RetrievalDataset, own_splits, renamed_splits, split_code
from clipret.datasets.caption_lists import parse_list
from clipret.datasets.containers import container_of
from clipret.datasets.embedded import fits_embedded, load_embedded, parquet_parts, root_of
from clipret.datasets.embedded_rows import Part
from clipret.datasets.folder_files import folder_name
from clipret.datasets.karpathy import KarpathyImage
from clipret.datasets.parsing import counted, is_there, listed, repeated, shortened
from clipret.datasets.paths import ImagePaths
from clipret.datasets.row_files import KINDS, RowFile, column_values, image_bytes, member_name, open_rows
from clipret.datasets.row_types import holds_image, plain_caption
from clipret.datasets.table_files import ENDINGS, open_table
from clipret.errors import DatasetError

_TEXTS = ("sentences", "sentences_raw", "captions", "caption", "raw")
_NUMBERS = ("imgid", "img_id")
_OTHERS = ("filename", "filepath", "split", "sentids", "cocoid", *_NUMBERS)
# What a COCO file's number is written behind.
_COCO_PREFIXES = ("COCO_train2014_", "COCO_val2014_", "")
_MOST_HEADER = 1 << 20


@dataclass
class _Entry:
    """An image on its way: its first row, and of all its rows the sentences, (id or None, text)."""

    where: str
    file: str
    cells: dict
    split: str
    word: str | None = None
    sentences: list[tuple[int | None, str]] = field(default_factory=list)


def is_karpathy_table(columns: list[str]) -> bool:
    """Whether a table with these columns is one of Karpathy's."""
    return {"filename", "sentids"} <= set(columns) and any(name in columns for name in _TEXTS)


def fits_karpathy(path: Path) -> bool:
    """Whether a table, or the first Parquet file below a folder, is one of Karpathy's. False where none can be read."""
    try:
        parts = karpathy_parts(path)
        return bool(parts) and is_karpathy_table(_columns_of(root_of(path) / parts[0].file))
    except DatasetError:
        return False


def karpathy_parts(path: Path) -> list[Part]:
    """The table at a path, or the Parquet files below a folder."""
    if path.suffix.lower() in ENDINGS and path.suffix.lower() not in KINDS and is_there(path):
        return [Part(path.name)]
    return parquet_parts(path)


def load_karpathy_table(config: DatasetConfig) -> RetrievalDataset:
    """Read a table of Karpathy's of people's own: ids are COCO's, or the files' names without their endings.

    With --columns it is read as any other table. Raises DatasetError, with the row, when it is malformed.
    """
    path = Path(config.dataset)
    if config.columns:
        other = load_embedded if fits_embedded(path) else None
        reader = "folder:load_folder" if is_there(path, Path.is_dir) else "table:load_table"
        return (other or load_function(reader))(config)
    name = path.stem if is_there(path) else folder_name(path)
    return load_karpathy_parts(config, parts=karpathy_parts(path), root=root_of(path), name=name)


def load_karpathy_parts(config: DatasetConfig, *, parts: list[Part], root: Path, name: str) -> RetrievalDataset:
    """The data set of the files of one table of Karpathy's.

    root  folder that the files are below; images that are not in them are below config.root, by default the same
    name  of the data set
    """
    images, remarks = read_karpathy_tables(parts, root=root, splits=config.split != "hash")
    inside = any(container_of(image.file) for image in images)
    root = root if inside or config.root is None else config.root
    paths = ImagePaths(root)
    files = [paths.read(image.file) for image in images]
    ids = [PurePosixPath(image.file).stem if image.id is None else str(image.id) for image in images]
    ids = files if repeated(ids) else ids
    codes = None if any(not image.split for image in images) else [SPLITS.index(image.split) for image in images]
    splits, rule = own_splits(ids, config, codes=codes, hint="a column `split`")
    return RetrievalDataset(
        name=name,
        root=root,
        image_ids=ids,
        image_files=files,
        image_splits=splits,
        captions=[text for image in images for _, text in image.captions],
        caption_ids=[str(number) for image in images for number, _ in image.captions],
        caption_images=np.repeat(np.arange(len(images)), [len(image.captions) for image in images]),
        split_rule=rule,
        remarks=(f"read as a table of Karpathy's: {counted(len(parts), 'file')}", *remarks, *paths.remarks),
    )


def find_karpathy_tables(root: Path) -> list[Part]:
    """The tables of Karpathy's in a folder or in the folders in it: those of the first kind of file that has any."""
    for ending in (".parquet", ".csv", ".tsv", ".jsonl"):
        with contextlib.suppress(OSError):
            paths = sorted([*root.glob(f"*{ending}"), *root.glob(f"*/*{ending}")])
            fitting = [path for path in paths if fits_karpathy(path)]
            if fitting:
                return [Part(path.relative_to(root).as_posix(), _split_in(path.name)) for path in fitting]
    return []


def read_karpathy_tables(
    parts: list[Part], *, root: Path, whole: bool = False, splits: bool = True
) -> tuple[list[KarpathyImage], tuple[str, ...]]:
    """The images of the files of one table, in the order of their numbers (imgid, img_id), which is the split file's;
    and what is said of their splits' names.

    parts  the files, below root. Where a table has no column `split`, an image's split is the file's, or empty
    whole  whether every image must have a split
    splits whether the images' splits are asked for

    Raises DatasetError, with the row, when a table is malformed, or a sentence id is there twice.
    """
    entries: dict[tuple, _Entry] = {}
    for part in parts:
        for where, cells, member in _rows(root / part.file):
            if not splits:
                cells["split"] = None
            entry = _entry(cells, where=where, member=member, part=part if splits else Part(part.file))
            # Of a table with a row a sentence, the images of the other rows are copies.
            key = (cells.get("filepath"), cells["filename"])
            first = entries.setdefault(key, entry)
            if first.split != entry.split:
                raise DatasetError(
                    f"{where}: {cells['filename']} is in {entry.split} here, and in {first.split} at {first.where}; "
                    f"expected one split an image."
                )
            if whole and not entry.split:
                raise DatasetError(f"{where} has no split; expected a column `split` with one of {', '.join(SPLITS)}.")
            first.sentences += _sentences(cells, where=where)
    images = [_image(entry) for entry in entries.values()]
    numbers = [_number(entry.cells) for entry in entries.values()]
    if None not in numbers:
        images = [images[row] for row in np.argsort(numbers, kind="stable")]
    if twice := repeated(number for image in images for number, _ in image.captions):
        raise DatasetError(f"{root / parts[0].file}: {len(twice):,} sentence ids are repeated: {listed(twice)}.")
    return images, renamed_splits(dict.fromkeys(entry.word for entry in entries.values()))


def _rows(path: Path) -> Iterator[tuple[str, dict, str | None]]:
    """(where, column -> cell, the image's place in the file or None) of every row."""
    if path.suffix.lower() not in KINDS:
        table = open_table(path)
        names = [name for name in table.columns if name in (*_TEXTS, *_OTHERS)]
        for number, cells in table.rows([("", name) for name in names]):
            yield f"{path}, {table.unit} {number}", dict(zip(names, cells, strict=True)), None
        return
    file, row = open_rows(path), 0
    names = [name for name in file.schema.names if name in (*_TEXTS, *_OTHERS)]
    image = next((column.name for column in file.schema if holds_image(column.type)), None)
    has_images = image is not None and _first_has_bytes(file, image)
    for batch in file.batches(names):
        read = column_values(batch, names, path=path)
        for place in range(batch.num_rows):
            cells = {name: column[place] for name, column in read.items()}
            member = member_name(image, row, name=str(cells.get("filename"))) if has_images else None
            yield f"{path}, row {row}", cells, member
            row += 1


def _first_has_bytes(file: RowFile, image: str) -> bool:
    """Whether the images are in the table: a table may have the Hub's structure with their paths alone."""
    return file.num_rows > 0 and image_bytes(file.cell(image, 0).as_py()) is not None


def _entry(cells: dict, *, where: str, member: str | None, part: Part) -> _Entry:
    name, folder, split = cells.get("filename"), cells.get("filepath"), cells.get("split")
    if not isinstance(name, str) or not name.strip():
        raise DatasetError(f"{where}: filename is {shortened(name)}; expected the name of an image file.")
    word = split if isinstance(split, str) and split.strip() else part.split
    code = None if word is None else split_code(word)
    if code is None and split is not None and split != "":
        raise DatasetError(f"{where}: split is {shortened(split)}; expected one of {', '.join(SPLITS)}.")
    file = f"{part.file}/{member}" if member else f"{folder}/{name}" if folder else name
    return _Entry(where=where, file=file, cells=cells, split="" if code is None else SPLITS[code], word=word)


def _sentences(cells: dict, *, where: str) -> list[tuple[int | None, str]]:
    """(id or None, text) of the sentences of a row: of all of its image's, or of one."""
    column = next(name for name in _TEXTS if name in cells)
    value = _parsed(cells[column])
    ids, several = _parsed(cells.get("sentids")), isinstance(value, list)
    items = value if several else [value]
    texts = [plain_caption(item) for item in items]
    if stranger := next(
        (item for item, text in zip(items, texts, strict=True) if not isinstance(text, str | None)), None
    ):
        raise DatasetError(f"{where}: `{column}` has {shortened(stranger)}; expected texts.")
    own = [item.get("sentid") if isinstance(item, dict) else None for item in items]
    if several and None in own:
        if not isinstance(ids, list) or len(ids) != len(items):
            raise DatasetError(
                f"{where}: {len(items)} texts in `{column}`, and sentids is {shortened(ids)}; expected an id a text."
            )
        own = ids
    return [(_whole(number, where=where), text or "") for number, text in zip(own, texts, strict=True)]


def _image(entry: _Entry) -> KarpathyImage:
    """The image with its sentences in the order of `sentids`; those without an id of their own have theirs from it."""
    ids = _parsed(entry.cells.get("sentids"))
    order = [_whole(number, where=entry.where) for number in ids] if isinstance(ids, list) else []
    sentences = entry.sentences
    if any(number is None for number, _ in sentences):
        if len(order) != len(sentences):
            raise DatasetError(
                f"{entry.where}: {entry.cells['filename']} has {counted(len(sentences), 'text')}, and sentids is "
                f"{shortened(ids)}; expected an id a text."
            )
        sentences = [(number, text) for number, (_, text) in zip(order, sentences, strict=True)]
    places = {number: place for place, number in enumerate(order)}
    sentences = sorted(sentences, key=lambda sentence: places.get(sentence[0], len(places)))
    return KarpathyImage(id=_coco_id(entry), file=entry.file, split=entry.split, captions=sentences)


def _coco_id(entry: _Entry) -> int | None:
    if (number := entry.cells.get("cocoid")) not in (None, ""):
        return _whole(number, where=entry.where)
    stem = PurePosixPath(entry.cells["filename"]).stem
    digits = next((stem.removeprefix(prefix) for prefix in _COCO_PREFIXES if stem.startswith(prefix)), "")
    return int(digits) if len(digits) == 12 and digits.isascii() and digits.isdigit() else None


def _number(cells: dict) -> int | None:
    number = next((cells[name] for name in _NUMBERS if name in cells), None)
    text = str(number)
    return int(text) if text.isascii() and text.isdigit() else None


def _whole(number, *, where: str) -> int | None:
    if number is None:
        return None
    text = str(number)
    if not (text.isascii() and text.isdigit()):
        raise DatasetError(f"{where}: a sentence id is {shortened(number)}; expected a whole number.")
    return int(text)


def _parsed(value):
    """A cell; a text that is a list as the list."""
    if not isinstance(value, str) or not value.strip().startswith("["):
        return value
    with contextlib.suppress(ValueError, RecursionError):
        return json.loads(value)
    return parse_list(value) or value


def _columns_of(path: Path) -> list[str]:
    if path.suffix.lower() in KINDS:
        return list(open_rows(path).schema.names)
    if path.suffix.lower() not in (".jsonl", ".ndjson"):
        return open_table(path).columns
    # Opening it as a table would read all of it.
    with contextlib.suppress(OSError, ValueError, RecursionError), path.open("rb") as file:
        first = json.loads(file.readline(_MOST_HEADER))
        return list(first) if isinstance(first, dict) else []
    return []


def _split_in(name: str) -> str | None:
    word = name.partition(".")[0].partition("-")[0]
    return word if split_code(word) is not None else None
