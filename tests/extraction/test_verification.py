"""Rereading a cache, and encoding a sample of it again."""

import json
import shutil

import h5py
import numpy as np
import pytest

from clipret import ExtractConfig, FeatureCache, VerifyConfig, extract, verify
from clipret.backbones import matching
from clipret.cache import open_writer
from clipret.errors import CacheError, CacheFormatError, UsageError
from clipret.extraction import sampling
from tests.conftest import contents, write_cache, write_coco
from tests.helpers.hf_models import edit_json
from tests.helpers.joint_caches import member, write_member, write_members


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_coco(tmp_path_factory.mktemp("coco"), train=30, test=10)


@pytest.fixture(scope="module")
def extracted(root, checkpoints, tmp_path_factory):
    """A cache that was extracted, with one image that cannot be read."""
    folder = tmp_path_factory.mktemp("caches")
    sorted((root / "train2017").iterdir())[3].write_bytes(b"not an image")
    settings = {"dataset": "coco", "root": root, "out": folder / "coco.h5", "model": str(checkpoints["transformer"])}
    extract(ExtractConfig(**settings, workers=0, device="cpu", max_problems=0.1, prompt="a photo of {}"))
    return folder / "coco.h5"


@pytest.fixture
def cache(extracted, tmp_path):
    """A copy of it, to be spoiled."""
    return shutil.copy(extracted, tmp_path / "coco.h5")


def faults(result):
    return {check["name"]: check["faults"] for check in result["checks"] if check["faults"]}


def flip(path, dataset, position):
    """Change one byte of an array in the file."""
    with h5py.File(path) as file:
        offset = file[dataset].id.get_offset() + position
    content = bytearray(path.read_bytes())
    content[offset] ^= 1 + position % 255
    path.write_bytes(content)


def test_a_whole_cache_is_sound(cache):
    reports = []
    result = verify(VerifyConfig(cache), on_progress=reports.append)
    assert result["sound"]
    assert result["complete"]
    assert faults(result) == {}
    assert result["verdict"] == f"{cache} is sound."
    assert [(check["name"], check["rows"]) for check in result["checks"]] == [
        ("structure", None),
        ("image rows", 40),
        ("text rows", len(FeatureCache(cache).captions)),
    ]
    assert {report.phase for report in reports} == {"image rows", "text rows"}


@pytest.mark.ci
def test_every_one_of_a_hundred_flipped_bytes_is_found_with_its_row(cache, tmp_path):
    generator = np.random.default_rng(0)
    whole = cache.read_bytes()
    for number in range(100):
        side = ("image", "text")[number % 2]
        with h5py.File(cache) as file:
            features = file[side]["features"]
            size, width = features.id.get_storage_size(), features.shape[1] * features.dtype.itemsize
        position = int(generator.integers(size))
        flip(cache, f"{side}/features", position)
        result = verify(VerifyConfig(cache))
        assert not result["sound"]
        (check,) = [check for check in result["checks"] if check["faults"]]
        row = position // width
        if (side, row) == ("image", 3):
            assert check["faults"] == ["1 unusable image rows are not what was written to them: 3"]
        else:
            assert (check["name"], check["bad_rows"]) == (f"{side} rows", [row])
        cache.write_bytes(whole)
    assert verify(VerifyConfig(cache))["sound"]


@pytest.mark.parametrize(
    ("dataset", "position", "name", "fault"),
    [
        ("image/problem", 3 * 160, "structure", "1 unusable image rows are not what was written to them: 3"),
        ("text/tokens", 20, "structure", "1 captions with tokens that differ from their copy, the first of row 5"),
        ("text/checksum", 8, "text rows", "not what was written: 1 rows: 2"),
        ("image/state", 4, "structure", "/image/state: 1 values are not in 0 to 2, the first of row 4: 4"),
        ("image/split", 7, "structure", "/image/split is not what was written (checksum)"),
    ],
)
def test_a_flipped_byte_elsewhere_is_found_too(cache, dataset, position, name, fault):
    command = FeatureCache(cache).about["command"]
    flip(cache, dataset, position)
    result = verify(VerifyConfig(cache))
    assert fault in faults(result)[name]
    assert result["verdict"].startswith(f"{cache} is damaged: ")
    assert result["verdict"].endswith(f"; delete it and extract again with: {command}")


def test_an_unfinished_cache_is_sound_as_far_as_it_goes(tmp_path):
    with open_writer(tmp_path / "half.h5", contents()) as writer:
        writer.write_images(0, features=np.ones((30, 24), np.float16), problems={})
    result = verify(VerifyConfig(tmp_path / "half.h5"))
    assert (result["sound"], result["complete"]) == (True, False)
    assert result["verdict"] == (
        f"{tmp_path / 'half.h5'} is sound but incomplete; complete it with: clipret extract --dataset made"
    )


def test_a_sample_is_encoded_again_and_agrees(cache):
    result = verify(VerifyConfig(cache, sample=25, device="cpu"))
    assert result["sound"], faults(result)
    assert [(check["name"], check["rows"]) for check in result["checks"][3:]] == [
        ("images encoded again", 25),
        ("captions encoded again", 25),
    ]
    assert verify(VerifyConfig(cache, sample=10_000, device="cpu"))["checks"][3]["rows"] == 39


def rewrite(path, **changes):
    """Replace features of a cache, with valid checksums, which only encoding again can find."""
    cache = FeatureCache(path)
    original = cache.contents
    features = {side: np.array(getattr(cache, f"{side}_features")) for side in ("image", "text")}
    for side, change in changes.items():
        change(features[side])
    path.unlink()
    with open_writer(path, original) as writer:
        writer.write_images(0, features=features["image"], problems=cache.problems)
        writer.write_texts(0, features=features["text"], tokens=cache.tokens)


def test_features_of_other_images_and_captions_are_found_by_encoding_again(cache):
    def swap(features):
        features[[5, 6]] = features[[6, 5]]

    rewrite(cache, image=swap, text=swap)
    assert verify(VerifyConfig(cache))["sound"]
    result = verify(VerifyConfig(cache, sample=1000, device="cpu"))
    assert [check["bad_rows"] for check in result["checks"][3:]] == [[5, 6], [5, 6]]
    assert result["verdict"].startswith(f"{cache} is damaged: images encoded again, captions encoded again; ")


def test_a_changed_image_and_a_missing_one_are_told_apart(extracted, root, checkpoints, tmp_path):
    moved = shutil.copytree(root, tmp_path / "elsewhere")
    paths = sorted((moved / "train2017").iterdir())
    shutil.copy(paths[8], paths[7])
    paths[10].unlink()
    result = verify(VerifyConfig(extracted, sample=40, root=moved, device="cpu"))
    check = result["checks"][3]
    assert check["bad_rows"] == [7]
    assert [fault.split(":")[0].split(" by ")[0] for fault in check["faults"]] == [
        "encoded again, they differ",
        "can no longer be read",
    ]
    assert check["faults"][1] == "can no longer be read: 1 rows: 10"


def test_images_that_a_gpu_decoded_are_compared_more_widely_and_captions_are_not(cache):
    opened = FeatureCache(cache)
    assert (sampling._tolerance(opened, "image"), sampling._tolerance(opened, "text")) == (2e-2, 2e-2)
    opened.inputs["decode"] = "fast, by nvJPEG"
    assert (sampling._tolerance(opened, "image"), sampling._tolerance(opened, "text")) == (0.2, 2e-2)


def test_another_model_is_refused(cache, checkpoints):
    with pytest.raises(
        UsageError, match=r"^--model is .*resnet\.pt, with weights .*; .*coco\.h5 was extracted with .*transf"
    ):
        verify(VerifyConfig(cache, sample=1, model=str(checkpoints["resnet"]), device="cpu"))


def test_images_that_are_elsewhere_are_asked_for(cache, tmp_path):
    with pytest.raises(CacheError, match=r"^the images of .*coco\.h5 are not in .*gone; name their folder with --root"):
        verify(VerifyConfig(cache, sample=1, root=tmp_path / "gone", device="cpu"))


def test_a_file_that_is_no_cache_is_refused(tmp_path):
    (tmp_path / "text.h5").write_text("text")
    with pytest.raises(CacheFormatError, match=r"text\.h5 is not an HDF5 file"):
        verify(VerifyConfig(tmp_path / "text.h5"))
    with pytest.raises(UsageError, match=r"^--model is only of use to --sample"):
        VerifyConfig(tmp_path / "text.h5", model="RN50")


def test_a_cache_of_another_precision_is_encoded_again_in_that_precision(cache, monkeypatch):
    opened = FeatureCache(cache)
    opened.inputs["precision"] = "bfloat16"
    asked = []
    monkeypatch.setattr(matching, "load_backbone", lambda name, **values: asked.append(values) or stop())

    def stop():
        raise CacheError("enough")

    with pytest.raises(CacheError, match="enough"):
        sampling._backbone_of(opened, VerifyConfig(cache, sample=1, device="cpu"))
    assert asked[0]["precision"] == "bf16"


def test_the_command_line_shows_a_table_and_exits_1_when_it_is_damaged(run, tmp_path):
    path = write_cache(tmp_path / "made.h5")
    status, out, err = run("verify", path)
    assert (status, err.count("rows 60/60")) == (0, 1)
    assert "made.h5 is sound." in out
    assert out.count("ok") == 3
    flip(path, "text/features", 32 * 9 + 1)
    status, out, _ = run("verify", path, "--quiet")
    assert status == 1
    assert out.startswith(f"{path} is damaged: text rows; delete it and extract again with: ")
    status, out, _ = run("verify", path)
    assert "not what was written: 1 rows: 9" in out
    status, out, err = run("verify", path, "--json")
    assert (status, err) == (1, "")
    assert json.loads(out)["checks"][2]["bad_rows"] == [9]


def test_verifying_needs_no_clip_unless_something_is_encoded_again(cache, monkeypatch):
    monkeypatch.setattr(sampling, "load_backbone", None)
    monkeypatch.setattr(sampling, "load_matching", None)
    assert verify(VerifyConfig(cache))["sound"]


def test_a_model_whose_config_was_changed_is_not_taken_for_a_damaged_cache(pair_models, root, tmp_path):
    folder = shutil.copytree(pair_models["bert"], tmp_path / "bert")
    name = f"pair:timm/{pair_models['timm_dinov2']}+hf/{folder}"
    out = tmp_path / "pair.h5"
    settings = {"dataset": "coco", "root": root, "model": name, "workers": 0, "device": "cpu", "max_problems": 0.1}
    extract(ExtractConfig(out=out, **settings))
    edit_json(folder / "config.json", layer_norm_eps=0.5)
    with pytest.raises(
        UsageError,
        match=r"^pair:timm/.* is not what .*pair\.h5 was extracted with \(text_encoder: it was 'BertModel, config\.json"
        r" \w{12}', and is 'BertModel, config\.json \w{12}'\); name the model's unchanged files with --model\.$",
    ):
        verify(VerifyConfig(out, sample=1, device="cpu"))


def test_caches_side_by_side_are_each_reread(tmp_path):
    one, two = write_members(tmp_path)
    both = f"{one},{two}"
    result = verify(VerifyConfig(cache=both))
    names = [f"{path}: {check}" for path in (one, two) for check in ("structure", "image rows", "text rows")]
    assert [check["name"] for check in result["checks"]] == [*names, "side by side"]
    assert result["sound"]
    assert result["complete"]
    assert result["verdict"] == f"{both} is sound."
    flip(two, "image/features", 33)
    result = verify(VerifyConfig(cache=both))
    assert list(faults(result)) == [f"{two}: image rows"]
    assert not result["sound"]
    assert result["verdict"].startswith(f"{two} is damaged: image rows; delete it")


def test_sound_caches_that_do_not_belong_together_are_a_fault(tmp_path):
    one, _ = write_members(tmp_path)
    splits = np.zeros(60, dtype=np.uint8)
    other = write_member(tmp_path / "c.h5", member(seed=3, dims=(9, 8, 4), image_splits=splits))
    result = verify(VerifyConfig(cache=f"{one},{other}"))
    assert list(faults(result)) == ["side by side"]
    assert "are of another split in" in result["verdict"]
