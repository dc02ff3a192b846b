"""Folders that `save_to_disk` of the package `datasets` writes: Arrow files, and JSON that says in what order."""

import dataclasses
from pathlib import Path

from clipret.config import DatasetConfig
from clipret.datasets.base import RetrievalDataset, split_code
from clipret.datasets.embedded import load_parts
from clipret.datasets.embedded_rows import Part
from clipret.datasets.folder_files import folder_name
from clipret.datasets.karpathy_tables import is_karpathy_table, load_karpathy_parts
from clipret.datasets.parsing import is_there, listed, read_json, shortened
from clipret.datasets.row_files import open_rows
from clipret.datasets.row_types import holds_image
from clipret.datasets.table import load_table
from clipret.datasets.table_files import rows_table
from clipret.errors import DatasetError

_STATE, _SPLITS = "state.json", "dataset_dict.json"


def load_saved(config: DatasetConfig) -> RetrievalDataset:
    """Read a folder of save_to_disk, or one with a folder for each split, without the package `datasets`.

    The columns are those of load_embedded, or of Karpathy's tables; where no column has images, `image` has their paths
    below --root, and --columns names others. Splits are those of a column `split`, else of the folders: `validation`,
    `dev` and the like are val. Each file is mapped, not read.

    Raises DatasetError, with the file, when something is missing, damaged or contradicts itself.
    """
    folder = Path(config.dataset)
    parts = saved_parts(folder)
    schema = open_rows(folder / parts[0].file).schema
    if not config.columns and is_karpathy_table(schema.names):
        return load_karpathy_parts(config, parts=parts, root=folder, name=folder_name(folder))
    if any(holds_image(field.type) for field in schema):
        return load_parts(config, parts=parts, root=folder, name=folder_name(folder))
    table = rows_table(folder, [folder / part.file for part in parts], splits=[part.split for part in parts])
    dataset = load_table(config, table=table)
    return dataclasses.replace(dataset, name=folder_name(folder), root=config.root or folder)


def saved_parts(folder: Path) -> list[Part]:
    """The Arrow files of a saved data set in their order, each with its split, where there are splits.

    Raises DatasetError when one is missing, or a JSON file is not as save_to_disk writes it.
    """
    if not is_there(folder / _SPLITS):
        return _files_of(folder, "", split=None)
    names = read_json(folder / _SPLITS)
    names = names.get("splits") if isinstance(names, dict) else None
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise DatasetError(f"{folder / _SPLITS}: `splits` is {shortened(names)}; expected a list of split names.")
    unknown = [name for name in names if "/" in name or ".." in name]
    if unknown:
        raise DatasetError(f"{folder / _SPLITS}: {listed(unknown)} cannot be folders in {folder}.")
    return [
        part
        for name in names
        for part in _files_of(folder, f"{name}/", split=name if split_code(name) is not None else None)
    ]


def _files_of(folder: Path, place: str, *, split: str | None) -> list[Part]:
    path = folder / place / _STATE
    state = read_json(path)
    files = state.get("_data_files") if isinstance(state, dict) else None
    names = [entry.get("filename") if isinstance(entry, dict) else None for entry in files or []]
    if not names or not all(isinstance(name, str) and "/" not in name for name in names):
        raise DatasetError(
            f"{path}: `_data_files` is {shortened(files)}; expected the names of Arrow files, as save_to_disk writes."
        )
    if state.get("_indices_data_files") or state.get("_indices_files"):
        raise DatasetError(
            f"{path}: the rows are in the order of another file, of indices, as old versions of `datasets` save them; "
            f"save it again after flatten_indices()."
        )
    missing = [name for name in names if not is_there(folder / place / name)]
    if missing:
        raise DatasetError(f"{folder / place} lacks {listed(missing)}, which {_STATE} names; copy it again, whole.")
    return [Part(f"{place}{name}", split) for name in names]
