import os
import random
import signal
import sys
import tarfile
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from clipret import ExtractConfig, FeatureCache, extract
from clipret.backbones.openai import OpenAIClip
from clipret.cache import DONE, PENDING
from clipret.errors import BackboneError, CacheMismatchError, ClipretError
from tests.conftest import StopAfter, write_coco
from tests.helpers.caches import arrays
from tests.helpers.child_extraction import extract_counting


@pytest.fixture
def config(coco_root, checkpoints, tmp_path):
    """Settings of a small extraction, in this process; changes by keyword."""

    def make(family="resnet", **changes):
        values = {
            "dataset": "coco",
            "root": coco_root,
            "model": str(checkpoints[family]),
            "out": tmp_path / "coco.h5",
            "batch_size": 16,
            "workers": 0,
            "device": "cpu",
        }
        return ExtractConfig(**(values | changes))

    return make


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_features_are_those_of_a_plain_loop_over_clip(config, family, dtype):
    """Cache times projection equals preprocess and encode_image, encode_text of clip itself, one at a time."""
    settings = config(family, dtype=dtype)
    extract(settings)
    cache = FeatureCache(settings.out)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import clip

        model, preprocess = clip.load(settings.model, device="cpu")
    bias = cache.projections.get("image/bias", 0)
    found_images = cache.image_features.astype(np.float32) @ cache.projections["image/weight"] + bias
    found_texts = cache.text_features.astype(np.float32) @ cache.projections["text/weight"]
    tolerance = {"rtol": 0, "atol": 5e-5 if dtype == "float32" else 2e-2}
    with torch.inference_mode():
        for row in range(0, len(cache.image_ids), 7):
            pixels = preprocess(Image.open(settings.root / cache.image_files[row]))[None]
            expected = model.encode_image(pixels).numpy()[0]
            np.testing.assert_allclose(found_images[row], expected, **tolerance)
        for row in range(0, len(cache.captions), 23):
            expected = model.encode_text(clip.tokenize([cache.captions[row]])).numpy()[0]
            np.testing.assert_allclose(found_texts[row], expected, **tolerance)


def test_workers_change_nothing(config, tmp_path):
    extract(config(out=tmp_path / "none.h5"))
    extract(config(out=tmp_path / "two.h5", workers=2))
    assert arrays(tmp_path / "none.h5") == arrays(tmp_path / "two.h5")


def test_progress_reaches_the_total_of_both_phases(config):
    reports = []
    result = extract(config(), on_progress=reports.append)
    assert [report.done for report in reports if report.phase == "images"] == [16, 32, 48, 64, 80]
    assert reports[-1].phase == "captions"
    assert reports[-1].done == reports[-1].total == result["captions"] > 400


@pytest.mark.parametrize("batches", [1, 4, 5, 6, 20])
def test_an_interrupted_extraction_goes_on_and_equals_an_uninterrupted_one(config, tmp_path, batches):
    """DESIGN's invariant 3, also when the resuming call asks for another batch size."""
    extract(config(out=tmp_path / "whole.h5"))
    with pytest.raises(KeyboardInterrupt):
        extract(config(), on_progress=StopAfter(batches))
    result = extract(config(batch_size=7))
    assert result["batch_size"] == 16
    assert 0 < result["extracted_images"] + result["extracted_captions"] < result["images"] + result["captions"]
    assert arrays(tmp_path / "coco.h5") == arrays(tmp_path / "whole.h5")
    again = extract(config())
    assert again["extracted_images"] == again["extracted_captions"] == 0


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
@pytest.mark.parametrize(("kills", "workers"), [(4, 0), (6, 2), pytest.param(50, 2, marks=pytest.mark.slow)])
@pytest.mark.ci
def test_kills_leave_caches_that_open_and_resume_to_the_same_bytes(config, children, tmp_path, kills, workers):
    """Each at a random moment of a new extraction, of one process or of one with two workers."""

    def start(settings):
        batches = children.Value("i", 0)
        child = children.Process(target=extract_counting, args=(settings, batches))
        child.start()
        return child, batches

    whole = config("transformer", out=tmp_path / "whole.h5", batch_size=16, workers=workers)
    child, batches = start(whole)
    child.join()
    expected, total, seen = arrays(whole.out), batches.value, set()
    for number in range(kills):
        moment = random.Random(number)
        settings = config("transformer", out=tmp_path / f"{number}.h5", batch_size=16, workers=workers)
        child, batches = start(settings)
        until = moment.randrange(total)
        while not settings.out.exists() or batches.value < until:
            time.sleep(0.002)
        time.sleep(moment.uniform(0, 0.01))
        child.kill()
        child.join()
        assert child.exitcode in (-signal.SIGKILL, 0)
        cache = FeatureCache(settings.out, allow_incomplete=True)
        seen.add(tuple(int(np.sum(cache.checksums[side] != 0)) for side in ("image", "text")))
        for states, features in ((cache.image_states, cache.image_features), (cache.text_states, cache.text_features)):
            assert features[states == DONE].any(axis=1).all(), "a row that is marked done has its feature"
        resumed, _ = start(settings)
        resumed.join()
        assert resumed.exitcode == 0
        assert arrays(settings.out) == expected
    assert len(seen) > kills // 2, "the kills hit different moments"


def test_a_kill_while_the_structure_is_written_leaves_nothing_in_the_way(config, tmp_path):
    (tmp_path / "coco.h5.new").write_bytes(b"half a file")
    extract(config())
    assert FeatureCache(tmp_path / "coco.h5").complete
    assert not (tmp_path / "coco.h5.new").exists()


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        ({"dtype": "float32"}, "dtype: it has 'float16', asked for 'float32'"),
        ({"background": "white"}, "background: it has 'clip', asked for 'white'"),
        ({"prompt": "a photo of {}"}, "prompt: it has '{}', asked for 'a photo of {}'"),
        ({"family": "transformer"}, "weights_sha256: it has"),
    ],
)
def test_a_cache_of_other_settings_is_not_reused(config, change, difference):
    extract(config())
    with pytest.raises(CacheMismatchError) as caught:
        extract(config(**change))
    assert difference in str(caught.value)


def test_changed_annotations_are_another_cache(config, checkpoints, tmp_path):
    root = write_coco(tmp_path / "coco", train=12, test=4)
    extract(config(root=root))
    path = root / "annotations" / "captions_val2017.json"
    path.write_text(path.read_text().replace('"caption": "', '"caption": "now ', 1))
    with pytest.raises(CacheMismatchError, match="annotation_sha256"):
        extract(config(root=root))


def test_the_prompt_surrounds_every_caption(config, tmp_path):
    extract(config(prompt="a photo of {}", out=tmp_path / "prompted.h5"))
    extract(config())
    plain, prompted = FeatureCache(tmp_path / "coco.h5"), FeatureCache(tmp_path / "prompted.h5")
    assert plain.captions == prompted.captions
    np.testing.assert_array_equal(prompted.tokens, plain.tokens + 3)
    assert not np.array_equal(plain.text_features, prompted.text_features)


@pytest.mark.parametrize("side", ["image", "text"])
def test_an_encoder_that_differs_from_clip_writes_nothing(config, monkeypatch, tmp_path, side):
    real = getattr(OpenAIClip, f"encode_{side}")
    monkeypatch.setattr(OpenAIClip, f"encode_{side}", lambda self, inputs: real(self, inputs) * 1.01)
    with pytest.raises(BackboneError, match=rf"{side} features of .* differ from clip's own output"):
        extract(config())
    assert (FeatureCache(tmp_path / "coco.h5", allow_incomplete=True).image_states == PENDING).all()


def test_features_beyond_float16_are_refused_with_the_way_out(config, monkeypatch):
    monkeypatch.setattr(OpenAIClip, "require_exact", lambda *_, **__: None)
    monkeypatch.setattr(OpenAIClip, "encode_image", lambda self, pixels: torch.full((len(pixels), 256), 1e5))
    with pytest.raises(BackboneError, match=r"image row 0 is not finite as float16; extract with --dtype float32"):
        extract(config())


def test_every_error_of_extraction_is_for_the_user(config):
    for change in ({"model": "nothing"}, {"root": Path(os.devnull)}, {"dataset": "mnist"}):
        with pytest.raises(ClipretError):
            extract(config(**change))


def test_the_same_images_give_the_same_features_from_a_table_a_folder_and_shards(checkpoints, tmp_path):
    generator = np.random.default_rng(0)
    folder = tmp_path / "album"
    folder.mkdir()
    rows = ["image,caption"]
    with tarfile.open(tmp_path / "album-0.tar", "w") as tar:
        for name in ("a", "b", "c"):
            pixels = generator.integers(0, 256, size=(50, 70, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"{name}.png")
            (folder / f"{name}.txt").write_text(f"picture {name}\n")
            rows.append(f"{name}.png,picture {name}")
            for ending in ("png", "txt"):
                tar.add(folder / f"{name}.{ending}", arcname=f"inside/{name}.{ending}")
    (tmp_path / "album.csv").write_text("\n".join(rows))
    results = []
    for dataset, root in ((folder, None), (tmp_path / "album.csv", folder), (tmp_path / "album-{0..0}.tar", None)):
        out = tmp_path / f"{len(results)}.h5"
        settings = {"dataset": str(dataset), "root": root, "out": out, "model": str(checkpoints["resnet"])}
        extract(ExtractConfig(**settings, workers=1))
        cache = FeatureCache(out)
        assert cache.problems == {}
        results.append((cache.image_features.tobytes(), cache.text_features.tobytes(), cache.captions))
    assert results[0] == results[1] == results[2]
