import numpy as np
import pytest
from conftest import contents, write_cache

from clipret import EvalConfig, FeatureCache, TrainConfig, evaluate, train
from clipret.errors import LeakageError, RunError
from clipret.leakage import count_trained_on, image_digests, save_trained_on


def cache_of(path, dataset: str, files: list[str], *, ids: list[str] | None = None, splits=(0, 0, 0, 1, 2)):
    """A cache of that data set with one image a file; splits are repeated."""
    made = contents(
        images=len(files),
        image_ids=ids or [str(1000 + row) for row in range(len(files))],
        image_files=files,
        image_splits=np.resize(np.array(splits, dtype=np.uint8), len(files)),
        inputs={**contents().inputs, "dataset": dataset},
    )
    return FeatureCache(write_cache(path, made))


def digests(cache):
    return image_digests(cache, np.arange(len(cache.image_ids))).tolist()


def test_a_coco_image_is_one_image_under_both_years_names_and_in_every_data_set(tmp_path):
    names = [
        ("coco", "val2017/000000391895.jpg", "391895"),
        ("coco-karpathy", "val2014/COCO_val2014_000000391895.jpg", "391895"),
        ("coco-karpathy", "train2014/COCO_train2014_000000391895.jpg", "391895"),
        ("my-photos", "some/folder/000000391895.jpg", "some/folder/000000391895.jpg"),
        ("shards", "x.tar/000000391895.jpg", "000000391895"),
    ]
    found = [
        digests(cache_of(tmp_path / f"{row}.h5", dataset, [file], ids=[number], splits=(2,)))
        for row, (dataset, file, number) in enumerate(names)
    ]
    assert len({digest for (digest,) in found}) == 1


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (("coco", "000000000012.jpg", "12"), ("coco", "000000000013.jpg", "13")),
        (("shop", "1.jpg", "1"), ("album", "1.jpg", "1")),
        (("coco", "000000000012.jpg", "12"), ("flickr30k", "12.jpg", "12")),
    ],
)
def test_other_images_are_others(tmp_path, first, second):
    one, other = (
        digests(cache_of(tmp_path / f"{row}.h5", dataset, [file], ids=[number], splits=(2,)))
        for row, (dataset, file, number) in enumerate((first, second))
    )
    assert one != other


def test_flickr30k_is_the_same_whatever_splits_it(tmp_path):
    one, other = (
        digests(cache_of(tmp_path / f"{name}.h5", name, ["1000092795.jpg"], ids=["1000092795"], splits=(2,)))
        for name in ("flickr30k", "flickr30k-hash")
    )
    assert one == other


@pytest.fixture
def run_on_2017(tmp_path):
    """A run trained on COCO images 1000 to 1035 under their 2017 names, and the images' ids."""
    files = [f"train2017/{1000 + row:012d}.jpg" for row in range(60)]
    cache = cache_of(tmp_path / "coco.h5", "coco", files)
    run = train(TrainConfig(cache=cache.path, epochs=1, runs_dir=tmp_path / "runs"))["run"]
    return run, [int(cache.image_ids[row]) for row in np.flatnonzero(cache.image_splits == 0)]


def test_images_trained_on_under_their_2017_names_are_refused_under_their_2014_names(tmp_path, run_on_2017):
    run, trained_on = run_on_2017
    ids = [*trained_on[:7], 5001, 5002, 5003]
    files = [f"val2014/COCO_val2014_{number:012d}.jpg" for number in ids]
    karpathy = cache_of(tmp_path / "karpathy.h5", "coco-karpathy", files, ids=[str(n) for n in ids], splits=(2,))
    with pytest.raises(LeakageError) as caught:
        evaluate(EvalConfig(head=run, cache=karpathy.path))
    assert str(caught.value) == (
        f"7 of the 10 test images were trained on by {run}: figures on them say nothing of new images. Measure on "
        "images held out from it, or see the figures all the same with --allow-leak."
    )
    report = evaluate(EvalConfig(head=run, cache=karpathy.path, allow_leak=True))
    assert report["leakage"] == {"checked": True, "trained_on": 7, "images": 10}
    assert evaluate(EvalConfig(cache=karpathy.path, zero_shot=True))["leakage"] is None


def test_held_out_images_of_the_same_cache_pass_and_trained_ones_do_not(run_on_2017):
    run, trained_on = run_on_2017
    assert evaluate(EvalConfig(head=run))["leakage"] == {"checked": True, "trained_on": 0, "images": 12}
    assert evaluate(EvalConfig(head=run, split="val"))["leakage"]["trained_on"] == 0
    with pytest.raises(LeakageError, match=f"^{len(trained_on)} of the {len(trained_on)} train images"):
        evaluate(EvalConfig(head=run, split="train"))


def test_a_refusal_comes_before_anything_is_measured_or_written(run_on_2017, tmp_path):
    run, _ = run_on_2017
    seen = []
    with pytest.raises(LeakageError):
        evaluate(EvalConfig(head=run, split="train"), on_progress=seen.append)
    assert seen == []
    assert not (tmp_path / "runs" / "0001-margin-linear" / "metrics.json").exists()


@pytest.mark.usefixtures("run_on_2017")
def test_a_head_that_comes_without_its_list_is_measured_and_said_to_be_unchecked(tmp_path):
    lone = tmp_path / "lone.safetensors"
    lone.write_bytes((tmp_path / "runs" / "0001-margin-linear" / "head.safetensors").read_bytes())
    report = evaluate(EvalConfig(head=lone, cache=tmp_path / "coco.h5"))
    assert report["leakage"] == {"checked": False, "trained_on": None, "images": 12}


def test_the_list_is_eight_bytes_an_image(tmp_path):
    save_trained_on(tmp_path / "trained_on.npy", np.arange(113_287, dtype=np.uint64))
    assert (tmp_path / "trained_on.npy").stat().st_size < 8 * 113_287 + 200
    assert count_trained_on(tmp_path / "trained_on.npy", np.array([5, 6, 2**63], dtype=np.uint64)) == 2


@pytest.mark.parametrize("content", [b"", b"hello", b"\x93NUMPY\x01\x00"])
def test_a_list_that_is_none_is_refused(tmp_path, content):
    path = tmp_path / "trained_on.npy"
    path.write_bytes(content)
    with pytest.raises(RunError, match=r"trained_on.npy is not a list of trained images \(.*\); train the run again\."):
        count_trained_on(path, np.array([1], dtype=np.uint64))


def test_a_list_is_never_unpickled(tmp_path):
    np.save(tmp_path / "trained_on.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(RunError, match=r"object of shape \(1,\)"):
        count_trained_on(tmp_path / "trained_on.npy", np.array([1], dtype=np.uint64))


def test_a_list_that_is_an_archive_is_refused(tmp_path):
    path = tmp_path / "trained_on.npy"
    with path.open("wb") as file:
        np.savez(file, a=np.zeros(3, dtype=np.uint64))
    with pytest.raises(RunError, match="is not a list of trained images"):
        count_trained_on(path, np.array([1], dtype=np.uint64))


def test_a_list_that_declares_more_than_its_file_holds_is_refused_without_taking_the_memory(tmp_path):
    path = tmp_path / "trained_on.npy"
    header = {"descr": "<u8", "fortran_order": False, "shape": (10**12,)}
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
    with pytest.raises(RunError) as refusal:
        count_trained_on(path, np.array([1], dtype=np.uint64))
    assert str(refusal.value) == (
        f"{path} is not a list of trained images (1,000,000,000,000 numbers of 8 bytes, and 0 bytes); train the run "
        f"again."
    )


def test_a_list_of_another_type_is_refused(tmp_path):
    np.save(tmp_path / "trained_on.npy", np.zeros((2, 2)))
    with pytest.raises(RunError, match=r"float64 of shape \(2, 2\)"):
        count_trained_on(tmp_path / "trained_on.npy", np.array([1], dtype=np.uint64))
