"""The demo, as the README runs it."""

import shutil

import pytest

from clipret import cli
from tests.helpers.pages import README, commands

DEMO = (
    ["extract", "--dataset", "emoji", "--model", "tiny-emoji", "--out", "data/emoji.h5"],
    ["train", "--cache", "data/emoji.h5"],
    ["eval"],
)


@pytest.fixture(scope="session")
def demo(tmp_path_factory):
    """A folder in which the three commands of the demo have run. Not to be written to."""
    folder = tmp_path_factory.mktemp("demo")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for words in DEMO:
            assert words in commands("clipret", README)
            assert cli.main([*words, "--quiet"]) == 0
    return folder


@pytest.fixture
def workplace(demo, tmp_path, monkeypatch):
    """The current folder: a copy of the demo's."""
    folder = tmp_path / "workplace"
    shutil.copytree(demo, folder)
    monkeypatch.chdir(folder)
    return folder
