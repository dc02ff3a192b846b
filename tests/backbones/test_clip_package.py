"""What is said of the package that `clip` comes from."""

from importlib import metadata

from clipret.backbones.clip_package import library_version


def test_the_distribution_is_the_one_whose_files_clip_is_among():
    owners = sorted(set(metadata.packages_distributions()["clip"]))
    assert library_version() == ", ".join(f"{name} {metadata.version(name)}" for name in owners)
    assert owners


def test_a_distribution_without_a_list_of_packages_is_known_by_its_files(tmp_path, monkeypatch):
    written = {
        "owner": {"RECORD": "clip/__init__.py,,\nclip/clip.py,,\n"},
        "listed": {"top_level.txt": "clip\n"},
        "other": {"RECORD": "other/clip/__init__.py,,\nclip_extras/__init__.py,,\n"},
        "bare": {},
    }
    for name, files in written.items():
        folder = tmp_path / f"{name}-1.5.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.5\n")
        for file, content in files.items():
            (folder / file).write_text(content)
    monkeypatch.setattr("sys.path", [str(tmp_path)])
    assert library_version.__wrapped__() == "listed 1.5, owner 1.5"
    for name in written:
        (tmp_path / f"{name}-1.5.dist-info/METADATA").unlink()
        (tmp_path / f"{name}-1.5.dist-info").rename(tmp_path / f"gone-{name}")
    assert library_version.__wrapped__() == "unknown"
