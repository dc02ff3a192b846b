"""The hub's cache, read as folders, against the hub's own library."""

from pathlib import Path

import pytest

from clipret.backbones.hub_cache import cached_file, cached_repositories, hub_cache_folder
from tests.helpers.hub_cache import write_repository

VARIABLES = ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME")


@pytest.fixture(autouse=True)
def no_settings(monkeypatch, tmp_path):
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


@pytest.mark.parametrize(
    ("settings", "folder"),
    [
        ({}, "{home}/.cache/huggingface/hub"),
        ({"XDG_CACHE_HOME": "/x"}, "/x/huggingface/hub"),
        ({"HF_HOME": "~/hf", "XDG_CACHE_HOME": "/x"}, "{home}/hf/hub"),
        ({"HF_HOME": "$HOME/hf"}, "{home}/hf/hub"),
        ({"HUGGINGFACE_HUB_CACHE": "/old", "HF_HOME": "/hf"}, "/old"),
        ({"HF_HUB_CACHE": "/new", "HUGGINGFACE_HUB_CACHE": "/old"}, "/new"),
    ],
)
def test_the_folder_is_where_the_hubs_library_puts_it(monkeypatch, tmp_path, settings, folder):
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    assert hub_cache_folder() == Path(folder.format(home=tmp_path / "home"))


def test_what_is_cached_is_what_the_hubs_library_finds(tmp_path):
    hub = pytest.importorskip("huggingface_hub", reason="needs pip install '.[hf]'")
    write_repository(tmp_path, "org/a-model", {"config.json": b"{}", "model.safetensors": b"weights"})
    write_repository(tmp_path, "gpt2", {"config.json": b"{}"})
    (tmp_path / "datasets--org--data" / "snapshots").mkdir(parents=True)
    (tmp_path / "version.txt").write_text("1")
    ours = dict(cached_repositories(tmp_path))
    theirs = {
        entry.repo_id: revision.snapshot_path.resolve()
        for entry in hub.scan_cache_dir(tmp_path).repos
        for revision in entry.revisions
    }
    assert {name: path.resolve() for name, path in ours.items()} == theirs
    assert hub.try_to_load_from_cache("org/a-model", "model.safetensors", cache_dir=tmp_path) == str(
        cached_file("org/a-model", ["other.bin", "model.safetensors"], cache=tmp_path)
    )


def test_the_revision_of_main_counts_and_without_one_the_newest(tmp_path):
    old = write_repository(tmp_path, "org/name", {"w.bin": b"old"}, revision="a" * 40)
    write_repository(tmp_path, "org/name", {"w.bin": b"new"}, revision="b" * 40, main=False)
    assert cached_file("org/name", ["w.bin"], cache=tmp_path) == old / "w.bin"
    (tmp_path / "models--org--name" / "refs" / "main").write_text("c" * 40)
    assert cached_file("org/name", ["w.bin"], cache=tmp_path).read_bytes() == b"new"


def test_what_is_not_there_whole_is_not_cached(tmp_path):
    snapshot = write_repository(tmp_path, "org/name", {"w.bin": b"weights"})
    (tmp_path / "models--org--name" / "blobs" / "1.incomplete").write_bytes(b"half")
    (snapshot / "w.bin").resolve().unlink()
    assert cached_file("org/name", ["w.bin"], cache=tmp_path) is None
    assert cached_file("org/other", ["w.bin"], cache=tmp_path) is None
    (tmp_path / "models--org--empty").mkdir()
    assert [name for name, _ in cached_repositories(tmp_path)] == ["org/name"]
    assert list(cached_repositories(tmp_path / "nowhere")) == []
