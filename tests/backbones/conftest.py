"""Folders with small models of other libraries."""

import shutil

import pytest

from clipret.backbones.loading import quiet
from tests.helpers.hf_models import edit_json, write_model


@pytest.fixture(scope="session")
def hf_folders(tmp_path_factory):
    """Kind -> a folder with a model of transformers, written once; not to be changed."""
    root, written = tmp_path_factory.mktemp("hf"), {}

    def folder(kind):
        if kind not in written:
            with quiet():
                written[kind] = write_model(root / kind, kind)
        return written[kind]

    return folder


@pytest.fixture
def hf_changed(hf_folders, tmp_path):
    """Kind, and fields of config.json -> a folder of one's own."""

    def copy(kind, **fields):
        folder = tmp_path / kind
        shutil.copytree(hf_folders(kind), folder)
        edit_json(folder / "config.json", **fields)
        return folder

    return copy
