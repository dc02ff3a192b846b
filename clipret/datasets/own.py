"""A data set of the user's own: the reader that its path asks for."""

from pathlib import Path

from clipret.config import DatasetConfig
from clipret.datasets.base import RetrievalDataset
from clipret.datasets.folder import load_folder
from clipret.datasets.json_files import load_json
from clipret.datasets.parsing import is_there
from clipret.datasets.table import load_table
from clipret.datasets.table_files import ENDINGS
from clipret.errors import DatasetError

# Files by which a folder is known as one of the data sets that have readers of their own.
_MARKS = {
    "coco": ("annotations/captions_train2017.json", "annotations/captions_train2014.json", "dataset_coco.json"),
    "flickr30k": ("dataset_flickr30k.json", "results_20130124.token"),
}
_FORMS = f"{', '.join(ENDINGS)} or .json file, a folder with images, or .tar shards"


def load_own(config: DatasetConfig) -> RetrievalDataset:
    """Read the data set at the path config.dataset, by what is there: a folder, or a file with a known ending.

    config.root  folder that image paths start from; the folder itself or the file's folder by default

    Raises DatasetError when there is nothing, nothing known, or what is there is malformed.
    """
    path = Path(config.dataset)
    if config.root is not None and not is_there(config.root, Path.is_dir):
        raise DatasetError(
            f"--root is {config.root}, which is no folder; expected the one that image paths start from."
        )
    if is_there(path, Path.is_dir):
        _require_unknown(path)
        return load_folder(config)
    ending = path.suffix.lower()
    if ending not in (*ENDINGS, ".json") and ".tar" in config.dataset:
        # Loads nothing of shards for those who have none.
        from clipret.datasets.shards import load_shards

        return load_shards(config)
    if not is_there(path, Path.exists):
        raise DatasetError(f"there is no data set at {path}; expected the path of a {_FORMS}.")
    if ending in ENDINGS:
        return load_table(config)
    if ending == ".json":
        return load_json(config)
    raise DatasetError(f"{path} has {f'the ending {ending}' if ending else 'no ending'}; expected a {_FORMS}.")


def _require_unknown(folder: Path) -> None:
    """Raise DatasetError when the folder is that of a data set that has a reader of its own."""
    for name, marks in _MARKS.items():
        if any((folder / mark).is_file() for mark in marks):
            raise DatasetError(f"{folder} holds {name}'s annotations; give it as --dataset {name} --root {folder}")
