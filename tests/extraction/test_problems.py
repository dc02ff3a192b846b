"""Extraction over images that are missing or cannot be read."""

import hashlib
import json
import os
import signal

import numpy as np
import pytest
import torch
from PIL import Image

from clipret import ExtractConfig, FeatureCache, extract
from clipret.backbones.openai import OpenAIClip
from clipret.cache import DONE, PENDING, UNUSABLE
from clipret.errors import BackboneError, DatasetError
from clipret.extraction.encoding import Encoder
from clipret.images import reading
from tests.conftest import StopAfter, write_coco
from tests.helpers.caches import arrays


@pytest.fixture
def root(tmp_path):
    """A COCO folder of 20 images."""
    return write_coco(tmp_path / "coco", train=18, test=2)


@pytest.fixture
def config(checkpoints, tmp_path, root):
    """Settings of a small extraction of that folder, in this process; changes by keyword."""

    def make(family="transformer", **changes):
        values = {
            "dataset": "coco",
            "root": root,
            "model": str(checkpoints[family]),
            "out": tmp_path / "coco.h5",
            "batch_size": 4,
            "workers": 0,
            "dtype": "float32",
            "device": "cpu",
        }
        return ExtractConfig(**(values | changes))

    return make


def image_paths(root):
    """The paths of a COCO folder's images, in the order of the cache's rows."""
    return [path for year in ("train2017", "val2017") for path in sorted((root / year).iterdir())]


def spoil(root, rows) -> dict:
    """Empty the image files of these rows; return what they were, by path."""
    kept = {path: path.read_bytes() for row, path in enumerate(image_paths(root)) if row in rows}
    for path in kept:
        path.write_bytes(b"")
    return kept


def repair(kept) -> None:
    """Undo what spoil did."""
    for path, data in kept.items():
        path.write_bytes(data)


def test_a_bad_image_leaves_its_neighbours_their_bits(config, root, tmp_path):
    extract(config(out=tmp_path / "whole.h5"))
    whole = FeatureCache(tmp_path / "whole.h5")
    paths = image_paths(root)
    paths[3].write_text("not an image")
    paths[5].write_bytes(paths[5].read_bytes()[:900])
    extract(config(max_problems=0.1))
    cache = FeatureCache(tmp_path / "coco.h5")
    assert cache.problems == {3: "not an image that PIL knows", 5: "truncated file"}
    assert cache.image_states[[3, 5]].tolist() == [UNUSABLE, UNUSABLE]
    np.testing.assert_array_equal(cache.image_features[cache.usable], whole.image_features[cache.usable])
    assert not cache.image_features[~cache.usable].any()


def test_a_first_batch_without_any_usable_image_is_no_obstacle(config, root, monkeypatch):
    """And the comparison with clip is made on the first usable images, on these alone."""
    compared = []
    real = OpenAIClip.require_exact

    def require_exact(self, side, *, inputs, features):
        compared.append((side, len(inputs), bool(inputs.reshape(len(inputs), -1).any(dim=1).all())))
        real(self, side, inputs=inputs, features=features)

    monkeypatch.setattr(OpenAIClip, "require_exact", require_exact)
    spoil(root, range(5))
    assert extract(config(max_problems=0.25))["problems"] == 5
    assert compared == [("image", 1, True), ("text", 4, True)]


def test_the_feature_of_an_unusable_image_is_not_asked_to_be_finite(config, root, monkeypatch):
    real = OpenAIClip.encode_image

    def encode_image(self, pixels):
        features = real(self, pixels).clone()
        features[(pixels == 0).flatten(1).all(dim=1)] = torch.nan
        return features

    monkeypatch.setattr(OpenAIClip, "encode_image", encode_image)
    spoil(root, [0, 6])
    assert extract(config(max_problems=0.1))["problems"] == 2


def test_an_encoder_that_differs_is_found_behind_unusable_images(config, root, monkeypatch, tmp_path):
    real = OpenAIClip.encode_image
    monkeypatch.setattr(OpenAIClip, "encode_image", lambda self, pixels: real(self, pixels) * 1.01)
    spoil(root, range(5))
    with pytest.raises(BackboneError, match=r"image features of .* differ from clip's own output"):
        extract(config(max_problems=0.25))
    assert (FeatureCache(tmp_path / "coco.h5", allow_incomplete=True).image_states == PENDING).all()


@pytest.mark.parametrize(("bad", "limit"), [(0, 0), (1, 0.06), (2, 0.1), (20, 1)])
def test_as_many_problems_as_the_limit_allows_are_gone_over(config, root, bad, limit):
    spoil(root, range(bad))
    assert extract(config(max_problems=limit))["problems"] == bad


def test_a_limit_that_floating_point_rounds_is_exact(config, tmp_path):
    """0.29 * 100 is below 29 in binary."""
    root = write_coco(tmp_path / "hundred", train=98, test=2)
    spoil(root, range(29))
    assert extract(config(root=root, max_problems=0.29))["problems"] == 29
    spoil(root, [29])
    with pytest.raises(DatasetError, match=r"^30 of 100 images \(30 %\) cannot be read"):
        extract(config(root=root, max_problems=0.29, out=tmp_path / "more.h5"))


def test_more_problems_than_the_limit_stop_extraction_and_finished_rows_stay(config, root, tmp_path):
    kept = spoil(root, [1, 6, 7, 19])
    settings = config(max_problems=0.1)
    with pytest.raises(DatasetError) as caught:
        extract(settings)
    name = image_paths(root)[1].name
    assert str(caught.value) == (
        f"3 of 20 images (15 %) cannot be read, more than --max-problems 0.1 allows; the first: train2017/{name}: "
        f"empty file. Leave them out with a larger --max-problems, or check {root}, repair the files and continue "
        f"with: clipret extract --dataset coco --root {root} --model {settings.model} --out {tmp_path}/coco.h5 "
        f"--batch-size 4 --workers 0 --dtype float32 --max-problems 0.1 --retry-problems --device cpu"
    )
    states = FeatureCache(settings.out, allow_incomplete=True).image_states
    assert states[:8].tolist() == [DONE, UNUSABLE, DONE, DONE, DONE, DONE, UNUSABLE, UNUSABLE]
    assert (states[8:] == PENDING).all()
    repair(kept)


def test_workers_stop_at_too_many_problems_too_whichever_batch_comes_first(config, root):
    spoil(root, range(1, 20, 2))
    settings = config(max_problems=0.1, workers=2)
    with pytest.raises(DatasetError, match=r"^\d+ of 20 images \(\d+ %\) cannot be read, .* train2017/.*: empty file"):
        extract(settings)
    cache = FeatureCache(settings.out, allow_incomplete=True)
    assert len(cache.problems) > 2
    assert all(row % 2 for row in cache.problems)


def test_a_share_is_told_in_two_digits(config, tmp_path):
    root = write_coco(tmp_path / "many", train=218, test=2)
    spoil(root, [9])
    with pytest.raises(DatasetError, match=r"^1 of 220 images \(0\.45 %\) cannot be read, more than --max-problems 0 "):
        extract(config(root=root, batch_size=32, max_problems=0))
    spoil(root, range(32))
    with pytest.raises(
        DatasetError, match=r"^32 of 220 images \(15 %\) cannot be read, more than --max-problems 0\.1 "
    ):
        extract(config(root=root, batch_size=32, max_problems=0.1, out=tmp_path / "more.h5"))


def test_a_stopped_extraction_stops_again_at_once_until_something_is_done(config, root, tmp_path):
    kept = spoil(root, [1, 6, 7])
    with pytest.raises(DatasetError) as first:
        extract(config(max_problems=0.1))
    before, reports = arrays(tmp_path / "coco.h5"), []
    with pytest.raises(DatasetError) as second:
        extract(config(max_problems=0.1), on_progress=reports.append)
    assert str(second.value) == str(first.value)
    assert reports == []
    assert arrays(tmp_path / "coco.h5") == before
    with pytest.raises(DatasetError, match=r"^3 of 20 images"):
        extract(config(max_problems=0.1, retry_problems=True))
    assert extract(config(max_problems=0.15))["problems"] == 3
    assert FeatureCache(tmp_path / "coco.h5").complete
    repair(kept)


@pytest.mark.parametrize("stop", [None, 1, 2])
def test_retrying_after_mending_equals_an_uninterrupted_extraction(config, root, tmp_path, stop):
    """Bit for bit, from a cache that was complete or not, interrupted while retrying or not."""
    extract(config(out=tmp_path / "whole.h5"))
    kept = spoil(root, [1, 6, 7, 16])
    if stop == 1:
        with pytest.raises(DatasetError, match=r"^3 of 20"):
            extract(config(max_problems=0.1))
    else:
        extract(config(max_problems=0.2))
    repair(kept)
    if stop:
        with pytest.raises(KeyboardInterrupt):
            extract(config(retry_problems=True), on_progress=StopAfter(stop))
    result = extract(config(retry_problems=True))
    assert result["problems"] == 0
    assert 0 < result["extracted_images"] < 20
    assert arrays(tmp_path / "coco.h5") == arrays(tmp_path / "whole.h5")


def test_a_repaired_image_does_not_pass_its_old_reason_to_equal_ones(config, root, tmp_path):
    """The first of two equal images was unreadable when it was its turn; the second comes later."""
    paths = image_paths(root)
    paths[9].write_bytes(paths[1].read_bytes())
    extract(config(out=tmp_path / "whole.h5"))
    kept = spoil(root, [1])
    with pytest.raises(KeyboardInterrupt):
        extract(config(max_problems=0.05), on_progress=StopAfter(1))
    repair(kept)
    extract(config(max_problems=0.05))
    cache, whole = FeatureCache(tmp_path / "coco.h5"), FeatureCache(tmp_path / "whole.h5")
    assert cache.problems == {1: "empty file"}
    np.testing.assert_allclose(cache.image_features[9], whole.image_features[9], atol=1e-5)


def test_the_cache_keeps_the_sha256_of_every_file_that_could_be_read_and_which_images_are_of_one_colour(
    config, root, tmp_path
):
    paths = image_paths(root)
    paths[3].write_bytes(b"no image")
    paths[5].unlink()
    paths[9].write_bytes(paths[1].read_bytes())
    Image.new("RGB", (40, 30), (7, 8, 9)).save(paths[6], "PNG")
    Image.new("I;16", (40, 30), 40_000).save(paths[7], "PNG")
    for workers, out in ((0, "one.h5"), (2, "two.h5")):
        extract(config(max_problems=0.1, skip_missing=True, workers=workers, out=tmp_path / out))
    cache = FeatureCache(tmp_path / "one.h5")
    expected = [hashlib.sha256(path.read_bytes()).digest() if path.exists() else bytes(32) for path in paths]
    assert list(map(bytes, cache.image_digests)) == expected
    assert np.flatnonzero(cache.single_colour).tolist() == [6, 7]
    assert sorted(cache.problems) == [3, 5]
    assert arrays(tmp_path / "one.h5") == arrays(tmp_path / "two.h5")


def test_retrying_opens_no_image_that_has_its_feature(config, root, tmp_path):
    extract(config(out=tmp_path / "whole.h5"))
    kept = spoil(root, [6, 7])
    extract(config(max_problems=0.1))
    spoil(root, [4])
    repair(kept)
    image_paths(root)[5].unlink()
    assert extract(config(retry_problems=True))["extracted_images"] == 2
    assert arrays(tmp_path / "coco.h5") == arrays(tmp_path / "whole.h5")


def test_without_being_told_to_nothing_is_tried_again(config, root):
    kept = spoil(root, [6])
    extract(config(max_problems=0.05))
    repair(kept)
    result = extract(config(max_problems=0.05))
    assert (result["problems"], result["extracted_images"]) == (1, 0)


@pytest.mark.parametrize("gone", [2, 7])
def test_missing_images_are_found_before_anything_is_written(config, root, tmp_path, gone):
    paths = image_paths(root)[:gone]
    for path in paths:
        path.unlink()
    with pytest.raises(DatasetError) as caught:
        extract(config())
    names = ", ".join(f"train2017/{path.name}" for path in paths[:5]) + (", ..." if gone > 5 else "")
    assert str(caught.value) == (
        f"{gone} of 20 images of 'coco' are not in {root}: {names}; put them there, say where they are with --root, or "
        f"skip them: --skip-missing"
    )
    assert not (tmp_path / "coco.h5").exists()


def test_images_that_went_missing_are_found_before_an_extraction_goes_on(config, root, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        extract(config(), on_progress=StopAfter(2))
    image_paths(root)[0].unlink()
    image_paths(root)[17].unlink()
    before = arrays(tmp_path / "coco.h5")
    with pytest.raises(DatasetError, match=r"^1 of 20 images of 'coco' are not in .*: val2017/"):
        extract(config())
    assert arrays(tmp_path / "coco.h5") == before


def test_missing_images_are_skipped_when_that_is_asked_for(config, root):
    """They do not count as problems; a folder in an image's place is missing, an empty file is not."""
    spoil(root, [12])
    paths = image_paths(root)
    for row in (0, 1, 9):
        paths[row].unlink()
    paths[1].mkdir()
    settings = config(skip_missing=True, max_problems=0.05)
    result = extract(settings)
    assert (result["problems"], result["missing"], result["extracted_images"]) == (4, 3, 20)
    not_found = dict.fromkeys((0, 1, 9), "file not found")
    assert FeatureCache(settings.out).problems == {**not_found, 12: "empty file"}
    assert extract(settings)["extracted_images"] == 0
    with pytest.raises(DatasetError, match=r"^4 of 20 images \(20 %\) cannot be read, .*: file not found"):
        extract(config(max_problems=0.05))
    with pytest.raises(DatasetError, match=r"^3 of 20 images of 'coco' are not in"):
        extract(config(max_problems=0.05, retry_problems=True))
    with pytest.raises(DatasetError, match=r"^1 of 20 images \(5 %\) cannot be read, .*: empty file"):
        extract(config(skip_missing=True, max_problems=0.01))


def test_a_data_set_without_any_image_is_not_skipped(config, root, tmp_path):
    for path in image_paths(root):
        path.unlink()
    with pytest.raises(DatasetError) as caught:
        extract(config(skip_missing=True))
    assert str(caught.value).endswith(
        ", ...; no image would be left: put them there, or say where they are with --root"
    )
    assert str(caught.value).startswith(f"20 of 20 images of 'coco' are not in {root}: train2017/")
    assert not (tmp_path / "coco.h5").exists()


def test_the_remarks_of_the_data_set_are_handed_on(config, root):
    path = root / "annotations" / "captions_val2017.json"
    content = json.loads(path.read_text())
    content["annotations"][0]["caption"] = " "
    path.write_text(json.dumps(content))
    owner = content["annotations"][0]["image_id"]
    assert extract(config())["remarks"] == [f"left out 1 empty caption, of {owner}"]


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="there is no SIGKILL")
def test_the_death_of_a_process_that_decodes_is_one_clear_line(config, root, monkeypatch, tmp_path):
    """As when the system kills it because memory ran out."""
    real, parent, victim = reading.read_file, os.getpid(), image_paths(root)[6]

    def read_file(name, **values):
        if os.getpid() != parent and name.endswith(victim.name):
            os.kill(os.getpid(), signal.SIGKILL)
        return real(name, **values)

    monkeypatch.setattr(reading, "read_file", read_file)
    settings = config(workers=1)
    with pytest.raises(DatasetError) as caught:
        extract(settings)
    assert str(caught.value) == (
        f"a worker process died while train2017/{victim.name} was read, possibly out of memory or, in a container, "
        f"out of /dev/shm. Finished rows are kept; continue with fewer processes: clipret extract --dataset coco "
        f"--root {settings.root} --model {settings.model} "
        f"--out {settings.out} --batch-size 4 --workers 0 --dtype float32 --device cpu"
    )
    monkeypatch.undo()
    extract(config(workers=0))
    extract(config(workers=0, out=tmp_path / "whole.h5"))
    assert arrays(tmp_path / "coco.h5") == arrays(tmp_path / "whole.h5")


@pytest.mark.parametrize("error", [ConnectionResetError(104, "Connection reset by peer"), EOFError()])
def test_a_broken_connection_to_such_a_process_is_the_same_line(config, monkeypatch, error):
    def fail(*_, **__):
        raise error
        yield

    monkeypatch.setattr(Encoder, "images", fail)
    with pytest.raises(DatasetError, match=r"^a worker process died, .* --workers 1 "):
        extract(config(workers=2))


def test_other_errors_while_images_are_read_are_not_taken_for_it(config):
    def fail(progress):
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        extract(config(), on_progress=fail)
