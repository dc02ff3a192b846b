"""Files of ready-made features: .npy, .safetensors, Parquet and Arrow. Nothing in them is unpickled."""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from clipret.cache.importing.arrow import ARROW_ENDINGS, batches, columns_of, row_count
from clipret.cache.importing.sources import Block, Source, file_source, stream_source
from clipret.errors import DatasetError
from clipret.machine.files import require_file
from clipret.machine.tensors import TensorsError, open_tensors

_TYPES = {"F16": np.dtype("<f2"), "F32": np.dtype("<f4"), "F64": np.dtype("<f8"), "BF16": np.dtype("<u2")}
_FLOATS = ("float16", "float32", "float64")
_MOST_HEADER = 100_000_000


def open_features(text: str) -> Source:
    """The features of one side: of FILE, FILE:NAME, a folder or a pattern, whose files follow each other by the numbers
    in their names.

    Raises DatasetError when there are none, or files are not what they should be.
    """
    paths, name = _named(text)
    if ARROW_ENDINGS.get(paths[0].suffix.lower()):
        return _arrow_source(paths, name)
    return file_source([_open_block(path, name) for path in paths])


def matching_files(text: str, endings: tuple[str, ...]) -> list[Path]:
    """The file at a path, those in a folder, or those of a pattern, in the order of the numbers in their names.

    Raises DatasetError when there is none, or one is of another ending.
    """
    path = Path(text)
    if path.is_dir():
        files = [file for file in path.iterdir() if file.suffix.lower() in endings]
    elif any(sign in path.name for sign in "*?[") and not path.exists():
        files = list(path.parent.glob(path.name)) if path.parent.is_dir() else []
    else:
        files = [path]
    if not files:
        raise DatasetError(f"there is no {' or '.join(endings)} file at {text}; check the path.")
    for file in files:
        if file.suffix.lower() not in endings:
            raise DatasetError(f"{file} has {_ending(file)}; expected {', '.join(endings[:-1])} or {endings[-1]}.")
        try:
            require_file(file)
        except OSError as error:
            raise DatasetError(f"{file} cannot be read: {error.strerror}.") from None
    kinds = sorted({file.suffix.lower() for file in files})
    if len(kinds) > 1:
        raise DatasetError(f"{text} has files of different kinds, {' and '.join(kinds)}; expected one: name a pattern.")
    return sorted(files, key=_numbers)


def _named(text: str) -> tuple[list[Path], str | None]:
    """The files, and the name behind the last colon, if what stands before it is what is there."""
    before, colon, name = text.rpartition(":")
    named = colon and name and not Path(text).exists() and Path(before).suffix.lower() in _ENDINGS
    return matching_files(before if named else text, _ENDINGS), name if named else None


def _ending(path: Path) -> str:
    return f"the ending {path.suffix}" if path.suffix else "no ending"


def _numbers(path: Path) -> list[tuple[int, int, str]]:
    """img_emb_10 after img_emb_9."""
    parts = re.split(r"(\d+)", path.name)
    return [(int(part.isdecimal()), int(part) if part.isdecimal() else 0, part) for part in parts]


def _open_block(path: Path, name: str | None) -> Block:
    return _BLOCKS[path.suffix.lower()](path, name)


def _open_npy(path: Path, name: str | None) -> Block:
    if name is not None:
        raise DatasetError(f"{path} holds one array; leave out :{name}.")
    try:
        with path.open("rb") as file:
            version = np.lib.format.read_magic(file)
            header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, by_column, dtype = header(file)
            offset = file.tell()
    except (OSError, ValueError, SyntaxError, TypeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        raise DatasetError(f"{path} cannot be read as .npy: {reason}.") from None
    if dtype.hasobject:
        raise DatasetError(
            f"{path} holds Python objects, which are not unpickled; save the features as one float array."
        )
    if dtype.newbyteorder("=").name not in _FLOATS:
        raise DatasetError(f"{path} holds {dtype}; expected float16, float32 or float64.")
    if len(shape) != 2:
        raise DatasetError(f"{path} has the shape {shape}; expected an array (rows, width).")
    if by_column:
        raise DatasetError(f"{path} is stored by columns; save numpy.ascontiguousarray of it.")
    return _whole(Block(path, offset, shape[0], shape[1], dtype))


def _open_safetensors(path: Path, name: str | None) -> Block:
    try:
        tensors = open_tensors(path)
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(min(length, _MOST_HEADER)))
    except (OSError, TensorsError, ValueError) as error:
        raise DatasetError(f"{path} cannot be read as safetensors: {error}.") from None
    names = sorted(other for other, shape in tensors.shapes.items() if len(shape) == 2)
    if name is None and len(names) != 1:
        raise DatasetError(f"{path} has {len(names)} tensors (rows, width){_listed(names)}; say which: {path}:NAME")
    name = name or names[0]
    if name not in names:
        raise DatasetError(f"{path} has no tensor (rows, width) {name}; it has{_listed(names)[1:] or ' none'}.")
    kind = tensors.dtypes[name]
    if kind not in _TYPES:
        raise DatasetError(f"{path} keeps {name} as {kind}; expected {', '.join(_TYPES)}.")
    rows, width = tensors.shapes[name]
    offset = 8 + length + header[name]["data_offsets"][0]
    return _whole(Block(path, offset, rows, width, _TYPES[kind], bfloat16=kind == "BF16"))


def _whole(block: Block) -> Block:
    """Raises DatasetError unless the file is as long as it says."""
    needed = block.offset + block.rows * block.width * block.dtype.itemsize
    size = block.path.stat().st_size
    if needed > size:
        raise DatasetError(
            f"{block.path} has {size:,} bytes where its {block.rows:,} rows need {needed:,}; copy it again."
        )
    return block


def _arrow_source(paths: list[Path], name: str | None) -> Source:
    kinds = columns_of(paths[0])
    vectors = [column for column, kind in kinds.items() if kind == "vectors"]
    if name is None and len(vectors) != 1:
        raise DatasetError(
            f"{paths[0]} has {len(vectors)} columns of lists of numbers{_listed(vectors)}; say which: {paths[0]}:NAME"
        )
    name = name or vectors[0]
    if kinds.get(name) != "vectors":
        raise DatasetError(
            f"{paths[0]} has no column of lists of numbers {name}; it has{_listed(vectors)[1:] or ' none'}."
        )

    def blocks() -> Iterator[np.ndarray]:
        for path in paths:
            start = 0
            for batch in batches(path, [name]):
                yield _vectors(batch.column(0), where=f"{path}, column {name}, row", first=start)
                start += batch.num_rows

    label = str(paths[0]) if len(paths) == 1 else f"{paths[0].parent}"
    rows = sum(row_count(path) for path in paths)
    return stream_source(blocks(), f"{label}:{name}", rows=rows, again=blocks)


def _vectors(column, *, where: str, first: int) -> np.ndarray:
    """(n, D) of a column of lists. Raises DatasetError where one is missing, or of another length."""
    import pyarrow.compute as pc

    lengths = pc.list_value_length(column).fill_null(-1).to_numpy(zero_copy_only=False)
    if len(lengths) == 0:
        return np.zeros((0, 0), dtype=np.float32)
    wrong = np.flatnonzero(lengths != max(lengths[0], 1))
    if len(wrong):
        row, length = int(wrong[0]), int(lengths[wrong[0]])
        what = "is missing" if length < 0 else f"has {length} numbers"
        raise DatasetError(f"{where} {first + row}: the list {what}; expected {max(int(lengths[0]), 1)} in every row.")
    values = column.flatten()
    if values.null_count:
        raise DatasetError(f"{where} {first} or after: a number is missing.")
    return values.to_numpy(zero_copy_only=False).reshape(len(lengths), -1)


def _listed(names: list[str]) -> str:
    return f": {', '.join(names[:8])}{', ...' if len(names) > 8 else ''}" if names else ""


_BLOCKS: dict[str, Callable[[Path, str | None], Block]] = {".npy": _open_npy, ".safetensors": _open_safetensors}
_ENDINGS = (*_BLOCKS, *ARROW_ENDINGS)
