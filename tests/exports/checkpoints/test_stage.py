"""clipret.export: what is written where, what is refused, and what stays when it stops."""

import errno
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from tokenizers.models import BPE

from clipret.config import ExportConfig
from clipret.errors import BackboneError, ExportError, UsageError
from clipret.exports import TARGETS, TargetRow
from clipret.exports.checkpoints import stage
from clipret.exports.targets import clip as target_clip
from clipret.machine.files import locked
from tests.helpers import REPOSITORY


@pytest.fixture
def config(tmp_path, vit_cache) -> ExportConfig:
    return ExportConfig(run=vit_cache.with_name("linear.safetensors"), to="clip", out=tmp_path / "out", cache=vit_cache)


def exported(config: ExportConfig, **changes) -> dict:
    return stage.export(replace(config, **changes))


def refused(config: ExportConfig, **changes) -> str:
    with pytest.raises((BackboneError, ExportError, UsageError)) as caught:
        exported(config, **changes)
    message = str(caught.value)
    assert "\n" not in message
    return message


def left(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def with_write(monkeypatch, write) -> None:
    target = replace(target_clip.TARGET, write=write)
    monkeypatch.setattr(target_clip, "TARGET", target)


def test_a_folder_has_the_files_and_the_record_that_is_returned(here, config, tmp_path):
    result = exported(config)
    assert left(tmp_path) == ["out"]
    assert left(config.out) == ["README.md", "clip.pt", "clipret_export.json"]
    record = json.loads((config.out / "clipret_export.json").read_text())
    assert record.items() <= result.items()
    assert result.keys() - record.keys() == {"out", "seconds"}
    assert record["files"] == {name: (config.out / name).stat().st_size for name in ("README.md", "clip.pt")}
    assert [way["way"] for way in record["verified"]] == ["clip.load", "clip.load and load_state_dict"]
    assert all((way["texts"], way["images"]) == (12, 6) for way in record["verified"])
    assert len(here) == 2


@pytest.mark.ci
def test_the_folder_is_opened_in_a_process_of_its_own(config, monkeypatch):
    """What is broken in this one is whole there."""

    def broken(*arguments):
        raise AssertionError("opened here")

    ways = {name: replace(way, embed=broken) for name, way in target_clip.TARGET.ways.items()}
    monkeypatch.setattr(target_clip, "TARGET", replace(target_clip.TARGET, ways=ways))
    ways = exported(config)["verified"]
    assert [way["opened"] for way in ways] == [True, True]
    assert 0 < ways[0]["difference"] < 1e-3
    assert ways[1]["difference"] < 1e-6


def test_progress_comes_to_its_end(here, config):
    seen = []
    stage.export(config, on_progress=seen.append)
    assert [step.phase for step in seen] == ["load", "write", "verify", "finish"]
    assert [step.done for step in seen] == [0, 1, 2, 3]


def test_an_empty_folder_is_taken(here, config):
    config.out.mkdir()
    exported(config)
    assert (config.out / "clip.pt").is_file()


def test_what_is_there_is_not_written_over(here, config):
    exported(config)
    before = (config.out / "clip.pt").read_bytes()
    assert refused(config) == f"{config.out} is there already; give another --out, or delete it."
    assert (config.out / "clip.pt").read_bytes() == before
    file = config.out.with_name("file")
    file.write_text("mine")
    assert refused(config, out=file) == f"{file} is there already; give another --out, or delete it."
    assert file.read_text() == "mine"


@pytest.mark.parametrize("to", ["nowhere", "empty", "file"])
def test_a_link_is_refused_before_any_work(config, tmp_path, monkeypatch, to):
    """A folder cannot take its place."""
    monkeypatch.setattr(stage, "open_source", None)
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("mine")
    config.out.symlink_to(tmp_path / to)
    assert refused(config) == f"{config.out} is there already; give another --out, or delete it."
    assert config.out.is_symlink()


def test_what_another_process_wrote_meanwhile_is_left_before_any_work(config, monkeypatch):
    """The lock was free again by then."""
    opening = stage.open_source

    def opened(*arguments, **options):
        config.out.mkdir()
        (config.out / "theirs").write_text("theirs")
        return opening(*arguments, **options)

    monkeypatch.setattr(stage, "open_source", opened)
    monkeypatch.setattr(stage, "_write", None)
    assert refused(config) == f"{config.out} is there already; give another --out, or delete it."
    assert left(config.out) == ["theirs"]


@pytest.mark.parametrize("name", [".", "..", "/"])
def test_a_folder_without_a_name_is_refused(config, name, tmp_path, monkeypatch):
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    assert refused(config, out=Path(name)) == f"--out is '{name}', which has no name of its own; expected a new folder."


def test_a_name_that_no_disk_takes_is_refused(config):
    assert refused(config, out=config.out.with_name("x" * 300)).endswith("File name too long.")


def test_a_folder_in_no_folder_is_refused(config, tmp_path):
    out = tmp_path / "nowhere" / "out"
    assert refused(config, out=out) == f"--out is '{out}', but there is no folder {out.parent}; make it first."
    assert left(tmp_path) == []


def test_an_unknown_target_is_refused(config):
    expected = f"--to is 'tensorflow'; expected one of: {', '.join(TARGETS)}."
    assert refused(config, to="tensorflow") == expected


def test_a_missing_package_is_refused_with_the_command_that_installs_it(config, monkeypatch):
    row = TargetRow("clipret.exports.targets.clip", help="", package=("json", "no_such_package"), extra="onnx")
    monkeypatch.setitem(TARGETS, "clip", row)
    expected = "--to clip needs the package no_such_package; run: pip install 'clipret[onnx]'"
    assert refused(config) == expected


def test_a_head_without_a_place_is_refused_with_the_targets_that_have_one(config, tmp_path):
    run = config.run.with_name("adapter.safetensors")
    message = refused(config, run=run)
    reason = "a head of kind adapter is more than a projection, and has no place there"
    beginning = f"{run} cannot be exported to clip: {reason}; what can: --to "
    assert message.startswith(beginning)
    assert {"onnx", "head"} <= set(message.removeprefix(beginning).removesuffix(".").split(" or "))
    assert left(tmp_path) == []


def test_a_target_that_cannot_and_needs_no_encoder_names_those_that_need_one(config, monkeypatch):
    from clipret.exports.targets import head

    monkeypatch.setattr(head, "TARGET", replace(head.TARGET, refusal=lambda source: "it is Tuesday"))
    message = refused(config, to="head")
    assert message.startswith(f"{config.run} cannot be exported to head: it is Tuesday; what can: --to clip")


def test_where_no_target_can_that_is_said(config, monkeypatch):
    for name in list(TARGETS):
        target = stage.load_target(name)
        monkeypatch.setattr(f"{TARGETS[name].module}.TARGET", replace(target, refusal=lambda source: "it cannot"))
    expected = f"{config.run} cannot be exported to clip: it cannot; no other target can either."
    assert refused(config) == expected


def test_a_bias_has_no_place_in_a_vision_transformer(config, vit_cache, tmp_path):
    from clipret.exports.targets.openai_weights import refusal
    from clipret.heads.linear import LinearHead

    source = stage.open_source(config, encoder=True).source
    biased = LinearHead(source.head.tensors | {"image_bias": torch.zeros(64)})
    assert refusal(source) is None
    assert "no place for a bias of the image projection" in refusal(replace(source, head=biased))


def test_a_folder_of_another_that_bears_the_unfinished_name_is_left_alone(here, config):
    part = config.out.with_name("out.part")
    part.mkdir()
    (part / "thesis.tex").write_text("mine")
    expected = f"{part} is there, and not from clipret export; move it away, or give another --out."
    assert refused(config) == expected
    assert (part / "thesis.tex").read_text() == "mine"
    assert not config.out.exists()


@pytest.mark.parametrize("kind", ["link", "file"])
def test_what_is_no_folder_and_bears_the_unfinished_name_is_left_alone(here, config, tmp_path, kind):
    part, theirs = tmp_path / "out.part", tmp_path / "theirs"
    theirs.mkdir()
    (theirs / "clipret_export.json").write_text("{}")
    part.symlink_to(theirs) if kind == "link" else part.write_text("mine")
    assert refused(config) == f"{part} is there, and not from clipret export; move it away, or give another --out."
    assert left(tmp_path) == ["out.part", "theirs"]
    assert left(theirs) == ["clipret_export.json"]


def test_an_export_that_was_killed_at_once_is_begun_again(here, config, tmp_path):
    """Before its first file was there."""
    config.out.with_name("out.part").mkdir()
    exported(config)
    assert left(tmp_path) == ["out"]


@pytest.mark.parametrize("steps", range(3))
def test_one_that_is_killed_while_it_clears_is_cleared_by_the_next(tmp_path, monkeypatch, steps):
    part, unlink, done = tmp_path / "out.part", Path.unlink, []
    for name in ("a", "clipret_export.json", "folder/file", "z"):
        (part / name).parent.mkdir(parents=True, exist_ok=True)
        (part / name).write_text("half")

    def stopping(path, **options):
        if len(done) == steps:
            raise KeyboardInterrupt
        done.append(path)
        unlink(path, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", stopping)
        with pytest.raises(KeyboardInterrupt):
            stage._clear(part)
    assert part.exists()
    stage._clear(part)
    assert not part.exists()


def test_all_is_on_the_disk_before_it_has_its_name(here, config, tmp_path, monkeypatch):
    synced, opened = [], {}
    fsync, rename = os.fsync, Path.rename

    def noted(descriptor):
        descriptor = getattr(descriptor, "fileno", lambda: descriptor)()
        synced.append(os.fstat(descriptor).st_ino)
        fsync(descriptor)

    def renamed(path, to):
        opened.update({file.name: file.stat().st_ino for file in (path, *path.iterdir())})
        assert set(opened.values()) <= set(synced)
        synced.clear()
        return rename(path, to)

    monkeypatch.setattr(os, "fsync", noted)
    monkeypatch.setattr(Path, "rename", renamed)
    exported(config)
    assert opened.keys() == {"out.part", "README.md", "clip.pt", "clipret_export.json"}
    assert tmp_path.stat().st_ino in synced


def test_a_file_that_cannot_be_synced_leaves_nothing(here, config, tmp_path, monkeypatch):
    def failing(descriptor):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", failing)
    assert refused(config).startswith(f"cannot write {config.out}: Input/output error. Nothing of it is kept;")
    assert left(tmp_path) == []


def test_files_in_folders_are_listed_with_their_own_sizes(here, config, monkeypatch):
    def with_folder(source, folder):
        target_clip.write(source, folder)
        (folder / "1_Module").mkdir()
        (folder / "1_Module" / "config.json").write_text("{}")

    with_write(monkeypatch, with_folder)
    files = exported(config)["files"]
    assert sorted(files) == ["1_Module/config.json", "README.md", "clip.pt"]
    assert files["1_Module/config.json"] == 2


def test_what_a_stopped_export_left_is_cleared(here, config, tmp_path):
    part = config.out.with_name("out.part")
    part.mkdir()
    (part / "clipret_export.json").write_text("{}")
    (part / "half").write_text("half")
    exported(config)
    assert left(tmp_path) == ["out"]
    assert left(config.out) == ["README.md", "clip.pt", "clipret_export.json"]


def test_ctrl_c_leaves_nothing(config, tmp_path, monkeypatch):
    def interrupted(source, folder):
        (folder / "half").write_text("half")
        raise KeyboardInterrupt

    with_write(monkeypatch, interrupted)
    with pytest.raises(KeyboardInterrupt):
        exported(config)
    assert left(tmp_path) == []


def test_a_full_disk_is_one_line_and_leaves_nothing(config, tmp_path, monkeypatch):
    def full(source, folder):
        raise OSError(errno.ENOSPC, "No space left on device")

    with_write(monkeypatch, full)
    expected = (
        f"cannot write {config.out}: No space left on device. Nothing of it is kept; once that is fixed, start the "
        f"same command again."
    )
    assert refused(config) == expected
    assert left(tmp_path) == []


def test_a_disk_that_fills_up_below_torch_is_the_same_line(config, tmp_path, monkeypatch):
    """torch.save itself has other words for it."""
    opened = Path.open

    class Full:
        def __init__(self, file):
            self._file, self._left = file, 1000

        def __enter__(self):
            return self

        def __exit__(self, *error):
            self._file.close()

        def write(self, data):
            if len(data) > self._left:
                raise OSError(errno.ENOSPC, "No space left on device")
            self._left -= len(data)
            return self._file.write(data)

        def flush(self):
            self._file.flush()

    def open_full(path, mode="r", *rest, **options):
        file = opened(path, mode, *rest, **options)
        return Full(file) if path.name == "clip.pt" and mode == "wb" else file

    monkeypatch.setattr(Path, "open", open_full)
    assert refused(config).startswith(f"cannot write {config.out}: No space left on device.")
    assert left(tmp_path) == []


RUST = {
    "safetensors": lambda folder: save_file({"a": torch.zeros(9)}, folder / "full" / "a.safetensors"),
    "tokenizers": lambda folder: Tokenizer(BPE()).save(str(folder / "full" / "tokenizer.json")),
}


@pytest.mark.parametrize("library", RUST)
def test_a_disk_that_fails_below_a_library_in_rust_is_the_same_line(config, tmp_path, monkeypatch, library):
    """Here, in a folder that is not there; a full disk reads alike, with another number."""
    with_write(monkeypatch, lambda source, folder: RUST[library](folder))
    assert refused(config).startswith(f"cannot write {config.out}: No such file or directory. Nothing of it is kept;")
    assert left(tmp_path) == []


def test_what_is_no_fault_of_the_disk_stays_what_it_is(config, tmp_path, monkeypatch):
    def faulty(source, folder):
        raise RuntimeError("a bug")

    with_write(monkeypatch, faulty)
    with pytest.raises(RuntimeError, match=r"^a bug$"):
        exported(config)
    assert left(tmp_path) == []


@pytest.mark.skipif(os.name == "nt", reason="of modes")
def test_others_may_read_what_is_exported(here, config, monkeypatch):
    def write(source, folder):
        target_clip.write(source, folder)
        (folder / "1_Module").mkdir()
        save_file({"a": torch.zeros(9)}, folder / "1_Module" / "a.safetensors")
        assert (folder / "1_Module" / "a.safetensors").stat().st_mode & 0o777 == 0o600

    with_write(monkeypatch, write)
    before = os.umask(0o026)
    try:
        exported(config)
    finally:
        os.umask(before)
    files = [path for path in config.out.rglob("*") if path.is_file()]
    assert len(files) == 4
    assert {path.stat().st_mode & 0o777 for path in files} == {0o640}


def test_other_embeddings_leave_nothing(here, config, tmp_path, monkeypatch):
    def transposed(source, folder):
        weights = target_clip.folded_weights(source)
        weights["text_projection"] = weights["text_projection"].T.contiguous()
        torch.save(weights, folder / "clip.pt")

    with_write(monkeypatch, transposed)
    assert refused(config).startswith("clip.load gives other embeddings than clipret: they differ by ")
    assert left(tmp_path) == []


def test_another_process_that_writes_there_is_named(config, tmp_path):
    with locked(tmp_path / "out.lock"):
        assert refused(config) == f"another process is writing {config.out}; wait for it, or give another --out."


_KILLED = """
import os, sys
from pathlib import Path
from clipret.config import ExportConfig
from clipret.exports.checkpoints import stage
stage.verify = lambda *arguments, **options: os.kill(os.getpid(), 9)
run, cache, out = map(Path, sys.argv[1:])
stage.export(ExportConfig(run=run, to="clip", out=out, cache=cache))
"""


@pytest.mark.ci
def test_killed_half_way_there_is_no_folder_of_that_name_and_the_next_call_succeeds(config, tmp_path):
    command = [sys.executable, "-c", _KILLED, str(config.run), str(config.cache), str(config.out)]
    assert subprocess.run(command, cwd=REPOSITORY, check=False).returncode == -9
    assert not config.out.exists()
    assert (tmp_path / "out.part" / "clip.pt").is_file()
    exported(config)
    assert left(tmp_path) == ["out"]


def test_a_cache_that_moved_is_given_with_cache(here, config, vit_cache, tmp_path):
    moved = tmp_path / "moved.h5"
    shutil.copy(vit_cache, moved)
    assert exported(config, cache=moved)["cache"]["file"] == moved.name


def test_an_encoder_that_moved_is_given_with_model(here, config, vit_cache, tmp_path):
    moved = tmp_path / "elsewhere.pt"
    shutil.copy(vit_cache.with_name("vit.pt"), moved)
    assert exported(config, model=str(moved))["verified"][0]["opened"]


def test_an_encoder_that_is_not_where_it_was_is_asked_for(here, config, vit_cache, tmp_path):
    path, kept = vit_cache.with_name("vit.pt"), tmp_path / "kept.pt"
    path.rename(kept)
    try:
        message = refused(config)
        assert message.startswith(
            f"the encoder of {vit_cache} cannot be loaded from where it was (if it is elsewhere now, name that with "
            f"--model): unknown model '{path}'"
        )
        weights = torch.load(kept, weights_only=True)
        torch.save(weights | {"ln_final.bias": weights["ln_final.bias"] + 1}, path)
        message = refused(config)
        assert message.startswith(f"{path} was changed: its weights are ")
        assert message.endswith("; name the unchanged file with --model.")
    finally:
        kept.replace(path)


def test_other_weights_are_refused_by_their_sha256(config, vit_cache, tmp_path):
    weights = torch.load(vit_cache.with_name("vit.pt"), weights_only=True)
    weights["ln_final.bias"] = weights["ln_final.bias"] + 1
    torch.save(weights, tmp_path / "other.pt")
    message = refused(config, model=str(tmp_path / "other.pt"))
    assert message.startswith(f"--model is {tmp_path}/other.pt, with weights ")
    assert f"{vit_cache} was extracted with" in message
    assert left(tmp_path) == ["other.pt"]


def test_images_that_are_not_at_hand_are_left_out_and_named(here, config, tmp_path):
    result = exported(config, root=tmp_path)
    assert {(way["texts"], way["images"]) for way in result["verified"]} == {(12, 0)}
    assert result["images_missing"] == "0.png: file not found"


def test_a_cache_of_imported_features_has_no_encoder(config, tmp_path):
    from clipret import write_cache
    from clipret.cache import FeatureCache
    from tests.helpers.exported import random_head, saved
    from tests.helpers.ready_made import embeddings

    images, texts = embeddings(30)
    path = tmp_path / "made.h5"
    write_cache(path, images=images, texts=texts)
    assert FeatureCache(path).imported
    head = saved(random_head(path), path)
    message = refused(config, run=head, cache=path)
    assert message.startswith(f"the features of {path} were imported, and nothing says how an encoder made them")
