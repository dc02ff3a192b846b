import inspect
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest

from clipret.config import DatasetConfig, DownloadConfig
from clipret.datasets import DATASETS_HELP, NAMED, OWN, SPLITS_HELP, NamedReader, OwnReader, load_dataset, load_function
from clipret.datasets.base import RetrievalDataset
from clipret.errors import UsageError

READERS = NAMED | OWN


def toy(config):
    """A reader as a recipe has it: three images with a caption each."""
    return RetrievalDataset(
        name="toy",
        root=config.root or Path("toy"),
        image_ids=["1", "2", "3"],
        image_files=["1.jpg", "2.jpg", "3.jpg"],
        image_splits=np.array([0, 1, 2], dtype=np.uint8),
        captions=["one", "two", "three"],
        caption_images=np.arange(3),
        split_rule="given",
    )


@pytest.fixture
def toy_module(monkeypatch):
    """Where the new file would be."""
    module = types.ModuleType("clipret.datasets.toy")
    module.load_toy = toy
    monkeypatch.setitem(sys.modules, "clipret.datasets.toy", module)


@pytest.mark.parametrize("reader", READERS.values(), ids=READERS)
def test_every_row_names_a_function_that_takes_a_config(reader):
    (parameter, *others) = inspect.signature(load_function(reader.load)).parameters.values()
    assert parameter.annotation is DatasetConfig
    assert all(other.default is not inspect.Parameter.empty for other in others)


@pytest.mark.parametrize("reader", [reader for reader in NAMED.values() if reader.download])
def test_every_download_is_a_function_that_takes_a_config(reader):
    parameters = inspect.signature(load_function(reader.download)).parameters
    assert list(parameters) == ["config", "watch"]
    assert parameters["config"].annotation is DownloadConfig


def test_no_two_rows_share_a_cache_name_and_a_reader_has_a_default_split():
    caches = [name for reader in NAMED.values() for name in reader.caches]
    assert len(set(caches)) == len(caches)
    assert all(reader.splits for reader in READERS.values())


def test_help_lists_every_row():
    assert all(f"{name}," in DATASETS_HELP for name in NAMED)
    assert all(reader.label in DATASETS_HELP for reader in OWN.values())
    assert SPLITS_HELP == (
        "Rule that splits the images: hash (emoji), 2017 or karpathy (coco), karpathy or hash (flickr30k), test "
        "(xm3600), test (xtd10), given or hash (your own data)"
    )


def test_a_data_set_with_a_name_is_one_file_and_one_row(toy_module, monkeypatch):
    monkeypatch.setitem(NAMED, "toy", NamedReader("toy:load_toy", splits=("given",), caches=("toy",)))
    assert load_dataset(DatasetConfig(dataset="toy")).captions == ["one", "two", "three"]
    with pytest.raises(UsageError) as caught:
        load_dataset(DatasetConfig(dataset="toy", split="hash"))
    assert str(caught.value) == "--split is 'hash'; 'toy' can be split by: given."


def test_a_form_of_ones_own_data_is_one_file_and_one_row(toy_module, monkeypatch, tmp_path):
    (tmp_path / "1.jpg").touch()
    (tmp_path / "dataset_info.json").touch()
    row = OwnReader("toy:load_toy", "a toy", fits=lambda path: (path / "dataset_info.json").is_file())
    rows = {"toy": row} | OWN
    monkeypatch.setattr("clipret.datasets.OWN", rows)
    assert load_dataset(DatasetConfig(dataset=str(tmp_path))).name == "toy"


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("a.CSV", "table"),
        ("b.tar.csv", "table"),
        ("a.json", "json"),
        ("a.tar", "shards"),
        ("shards/{000..010}.tar", "shards"),
        ("deep.tar/*", "shards"),
        ("a.tar.gz", "shards"),
        (".", "folder"),
    ],
)
def test_the_first_row_that_fits_reads_a_path(path, name):
    assert next(name for name, reader in OWN.items() if reader.fits(Path(path))) == name


def test_the_tables_load_no_reader():
    check = (
        "import sys, clipret.datasets\n"
        "loaded = {'torch', 'pycocotools', 'pyarrow', 'PIL', 'clipret.datasets.base'} & set(sys.modules)\n"
        "assert not loaded, loaded"
    )
    subprocess.run([sys.executable, "-c", check], check=True, timeout=60)
