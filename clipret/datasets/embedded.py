"""Tables with the images inside, as the Hugging Face hub has them: one Parquet file, several, or a folder of them."""

import dataclasses
import re
from pathlib import Path, PurePosixPath

from clipret.config import DatasetConfig
from clipret.datasets import load_function
from clipret.datasets.base import RetrievalDataset, own_splits, split_code
from clipret.datasets.containers import split_container
from clipret.datasets.embedded_rows import EmbeddedRows, Part
from clipret.datasets.folder_files import Listing, ending, folder_name, is_image, list_files
from clipret.datasets.parsing import is_there, listed, repeated
from clipret.datasets.row_files import open_rows, own_name
from clipret.datasets.row_types import holds_image, is_text
from clipret.datasets.table import TableImages, read_images
from clipret.datasets.table_columns import asked_columns
from clipret.datasets.table_files import ENDINGS, Table
from clipret.errors import DatasetError

ENDING = ".parquet"
_USUAL_PATHS = ("image", "file_name")
_USUAL_CAPTIONS = ("caption", "captions", "text")
# train.parquet, and a hub's train-00000-of-00003.parquet.
_SPLIT_FILE = re.compile(r"([^.]+?)(-\d+-of-\d+)?\.[^.]+")


def fits_embedded(path: Path) -> bool:
    """Whether a Parquet file, or the first one below a folder, has a column of images.

    One that cannot be read, or not without pyarrow, fits where a folder has nothing else to read.
    """
    parts = parquet_parts(path)
    if not parts:
        return False
    try:
        return any(holds_image(column.type) for column in open_rows(root_of(path) / parts[0].file).schema)
    except DatasetError:
        # Of a file by itself the reader of tables says what is wrong.
        return is_there(path, Path.is_dir) and not _has_others(path)


def load_embedded(config: DatasetConfig) -> RetrievalDataset:
    """Read a Parquet file, or all those below a folder as one table, whose rows have the images themselves.

    The column of images is `image`, or the only one that has images; captions are `caption`, `captions` or `text`, a
    text, a list or a structure with the text as `raw`, or the columns `caption_0`, `caption_1` ...; `split` and `id`
    may be there. Without a column `split` the split is that of the files' names, as train-00000-of-00002.parquet, or
    of their folders; else 80/10/10 by a hash of the id.

    Ids default to the images' own names where all have one and all differ, else to the files. Nothing is unpacked; no
    image is opened.

    Raises DatasetError, with the file and the row from 0, when something is malformed or contradicts itself.
    """
    path = Path(config.dataset)
    parts, root = parquet_parts(path), root_of(path)
    if _has_paths(config, root / parts[0].file):
        # The column of bytes is something else's.
        return load_function("table:load_table" if is_there(path) else "folder:load_folder")(config)
    return load_parts(config, parts=parts, root=root, name=path.stem if is_there(path) else folder_name(path))


def load_parts(config: DatasetConfig, *, parts: list[Part], root: Path, name: str) -> RetrievalDataset:
    """The data set of the files of one table. Raises DatasetError as load_embedded does.

    root  folder that the files are below
    name  of the data set
    """
    if config.root is not None and config.root.resolve() != root.resolve():
        raise DatasetError(
            f"--root is {config.root}, and the images are in the files of {config.dataset}, or at paths relative to "
            f"them; leave --root out."
        )
    image, remarks = image_column(config, root / parts[0].file)
    rows = EmbeddedRows(root, parts, image)
    schema = open_rows(root / parts[0].file).schema
    columns = list(dict.fromkeys([*schema.names, *_split_column(parts)]))
    table = Table(Path(config.dataset), columns, "row", rows)
    asked = dataclasses.replace(config, columns=_with_image(config, image))
    images = read_images(table, asked, root=root, usual={"caption": _USUAL_CAPTIONS})
    ids, of = _ids(images)
    splits, rule = own_splits(
        ids, config, codes=images.splits, hint="a column `split`, or files named after splits", of=of
    )
    return RetrievalDataset(
        name=name,
        root=root,
        image_ids=ids,
        image_files=images.files,
        image_splits=splits,
        captions=images.captions,
        caption_images=images.caption_images,
        split_rule=rule,
        remarks=(*remarks, *images.remarks, *rows.remarks),
    )


def image_column(config: DatasetConfig, path: Path) -> tuple[str, tuple[str, ...]]:
    """The column of images of a file of rows, and what is said where it is not called `image`.

    Raises DatasetError when --columns names one without images, or there are several and none is called `image`.
    """
    schema = open_rows(path).schema
    columns = [field.name for field in schema if holds_image(field.type)]
    (name,) = config.column_names["image"]
    if name in columns:
        return name, ()
    if "image" in asked_columns(config):
        what = f"holds {schema.field(name).type}" if name in schema.names else "is not there"
        raise DatasetError(
            f"{path}: column `{name}` {what}; expected images, as in {listed(f'`{column}`' for column in columns)}."
        )
    if len(columns) != 1:
        raise DatasetError(
            f"{path} has images in the columns {listed(columns)}; say which are meant: --columns image={columns[0]}"
        )
    return columns[0], (f"the images are those in column `{columns[0]}`",)


def split_of_file(name: str, listing: Listing) -> str | None:
    """The word in a file's name, or its top folder, that names a split; None where neither does."""
    match = _SPLIT_FILE.fullmatch(PurePosixPath(name).name)
    words = (match[1] if match else "", name.removeprefix(listing.wrapper).partition("/")[0])
    return next((word for word in words if split_code(word) is not None), None)


def parquet_parts(path: Path) -> list[Part]:
    """The Parquet file, or those below the folder with the splits that their names say."""
    if not is_there(path, Path.is_dir):
        return [Part(path.name)] if path.name.endswith(ENDING) and is_there(path) else []
    # Of a hub's download cache the files are links that lead out of the folder.
    listing = list_files(path)
    names = sorted([*listing.files, *listing.links])
    return [
        Part(name, split_of_file(name, listing)) for name in names if name.endswith(ENDING) and is_there(path / name)
    ]


def _has_others(folder: Path) -> bool:
    return any(is_image(name) or ending(name) in {*ENDINGS, ".tar"} - {ENDING} for name in list_files(folder).files)


def _has_paths(config: DatasetConfig, path: Path) -> bool:
    """Whether the images are named by text: in the column that --columns names, or in one of the usual."""
    schema = open_rows(path).schema
    usual = config.column_names["image"] if "image" in asked_columns(config) else _USUAL_PATHS
    return any(is_text(schema.field(name).type) for name in usual if name in schema.names)


def root_of(path: Path) -> Path:
    """The folder itself, or the one that the file is in."""
    return path if is_there(path, Path.is_dir) else path.parent


def _split_column(parts: list[Part]) -> list[str]:
    """`split` where the files say it, so that it counts as a column."""
    return ["split"] if any(part.split is not None for part in parts) else []


def _with_image(config: DatasetConfig, image: str) -> str:
    return (
        config.columns
        if "image" in asked_columns(config)
        else ",".join(filter(None, [config.columns, f"image={image}"]))
    )


def _ids(images: TableImages) -> tuple[list[str], str]:
    """The ids, and what they are: the table's, else the images' own names, else the files."""
    if images.ids:
        return images.ids, "ids"
    names = [own_name(split_container(file)[1]) for file in images.files]
    return (names, "names") if all(names) and not repeated(names) else (images.files, "paths")
