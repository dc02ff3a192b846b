import shutil

import numpy as np
import pytest

from clipret import EvalConfig, FailuresConfig, FeatureCache, TrainConfig, evaluate, find_failures, train
from clipret.cache import open_writer
from clipret.cache.image_keys import image_keys, split_copies
from clipret.errors import HeadError, LeakageError, TrainingError
from clipret.heads.files import load_trained_on
from clipret.protocols.leakage import check_images, training_images, training_keys
from tests.conftest import contents, digests_of, keep_keys, write_cache

TRAIN, VAL, TEST, RESTVAL = range(4)


def cache_of(path, files, *, digests=None, splits=(0, 0, 0, 1, 2), dataset="made", ids=None):
    """A cache with one image a file; digests are those of other bytes for every file unless they are given."""
    cache_contents = contents(
        images=len(files),
        image_ids=ids or [f"{dataset} {name}" for name in files],
        image_files=list(files),
        image_splits=np.resize(np.array(splits, dtype=np.uint8), len(files)),
        inputs={**contents().inputs, "dataset": dataset},
    )
    return FeatureCache(write_cache(path, cache_contents, digests=digests))


def of_bytes(path, contents_of, *, splits, prefix="p"):
    """A cache of files p0.jpg, p1.jpg, ... with these contents: equal numbers are equal bytes."""
    files = [f"{prefix}{row}.jpg" for row in range(len(contents_of))]
    return cache_of(path, files, digests=digests_of(map(str, contents_of)), splits=splits, dataset=path.stem)


def keys(cache):
    return image_keys(cache, np.arange(len(cache.image_ids)))


def test_the_first_eight_bytes_of_the_files_sha256_are_a_key(tmp_path):
    cache = cache_of(tmp_path / "a.h5", ["x/1.jpg", "x/2.jpg"], digests=digests_of(["one", "two"]))
    assert keys(cache).tolist() == [[0x7692C3AD3540BB80, 0], [0x3FC4CCFE745870E2, 0]]


def test_a_coco_image_is_one_image_under_both_years_names_and_in_every_data_set(tmp_path):
    names = [
        ("coco", "val2017/000000391895.jpg", "391895"),
        ("coco-karpathy", "val2014/COCO_val2014_000000391895.jpg", "391895"),
        ("coco-karpathy", "train2014/COCO_train2014_000000391895.jpg", "391895"),
        ("my-photos", "some/folder/000000391895.jpg", "some/folder/000000391895.jpg"),
        ("shards", "x.tar/000000391895.jpg", "000000391895"),
    ]
    coco_keys = [
        keys(cache_of(tmp_path / f"{row}.h5", [file], ids=[number], splits=(2,), dataset=dataset))[0, 1]
        for row, (dataset, file, number) in enumerate(names)
    ]
    assert len(set(coco_keys)) == 1
    assert coco_keys[0] != 0


def test_of_no_coco_image_the_name_is_a_key(tmp_path):
    files = ["1.jpg", "000000000012.png", "12.jpg", "00000012.jpg", "000000000012.jpg"]
    assert (keys(cache_of(tmp_path / "a.h5", files))[:, 1] == 0).tolist() == [True, True, True, True, False]


def test_a_head_keeps_each_key_once_and_nothing_of_images_that_it_could_not_know_again():
    of_images = np.array([[5, 0], [3, 7], [5, 0]], dtype=np.uint64)
    assert training_keys(of_images).tolist() == [3, 5, 7]
    assert training_keys(np.vstack([of_images, np.zeros((1, 2), dtype=np.uint64)])) is None


def test_an_image_of_which_nothing_is_known_is_not_one_that_was_trained_on():
    images = np.array([[0, 0], [9, 0], [0, 7]], dtype=np.uint64)
    assert check_images(images, np.array([0, 7, 8], dtype=np.uint64)) == {
        "checked": False,
        "trained_on": 1,
        "images": 3,
    }
    assert check_images(images, None) == {"checked": False, "trained_on": None, "images": 3}


@pytest.fixture
def run_on_2017(tmp_path):
    """A run trained on COCO images 1000 to 1035 under their 2017 names, and the images' ids."""
    files = [f"train2017/{1000 + row:012d}.jpg" for row in range(60)]
    cache = cache_of(tmp_path / "coco.h5", files, dataset="coco", ids=[str(1000 + row) for row in range(60)])
    run = train(TrainConfig(cache=cache.path, epochs=1, runs_dir=tmp_path / "runs"))["run"]
    return run, [int(cache.image_ids[row]) for row in np.flatnonzero(cache.image_splits == 0)]


def refusal(action, *arguments, error=LeakageError) -> str:
    with pytest.raises(error) as caught:
        action(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_images_trained_on_under_their_2017_names_are_refused_under_their_2014_names(tmp_path, run_on_2017):
    run, trained_on = run_on_2017
    ids = [*trained_on[:7], 5001, 5002, 5003]
    files = [f"val2014/COCO_val2014_{number:012d}.jpg" for number in ids]
    other = {"dataset": "coco-karpathy", "ids": [str(n) for n in ids]}
    karpathy = cache_of(tmp_path / "karpathy.h5", files, splits=(2,), **other)
    assert refusal(evaluate, EvalConfig(head=run, cache=karpathy.path)) == (
        f"7 of the 10 test images were trained on by {run}: figures on them say nothing about new images. Measure on "
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


def test_a_head_is_checked_wherever_it_was_copied_to(run_on_2017, tmp_path):
    run, trained_on = run_on_2017
    lone = shutil.copy(f"{run}/head.safetensors", tmp_path / "lone.safetensors")
    assert evaluate(EvalConfig(head=lone, cache=tmp_path / "coco.h5"))["leakage"] == {
        "checked": True,
        "trained_on": 0,
        "images": 12,
    }
    assert refusal(evaluate, EvalConfig(head=lone, cache=tmp_path / "coco.h5", split="train")).startswith(
        f"{len(trained_on)} of the {len(trained_on)} train images were trained on by {lone}: "
    )


def test_a_head_without_a_record_of_its_training_images_is_measured_and_reported_as_unchecked(run_on_2017, tmp_path):
    run, _ = run_on_2017
    keep_keys(tmp_path / "runs" / "0001-margin-linear" / "head.safetensors", None)
    assert evaluate(EvalConfig(head=run))["leakage"] == {"checked": False, "trained_on": None, "images": 12}


def test_a_file_trained_on_npy_is_of_no_account(run_on_2017, tmp_path):
    run, _ = run_on_2017
    (tmp_path / "runs" / "0001-margin-linear" / "trained_on.npy").write_bytes(b"PK\3\4junk")
    assert evaluate(EvalConfig(head=run))["leakage"] == {"checked": True, "trained_on": 0, "images": 12}


@pytest.mark.parametrize(
    ("kept", "named"),
    [(np.zeros((2, 2), dtype=np.uint64), "U64 (2, 2)"), (np.zeros(3), "F64 (3,)"), (np.zeros(3, np.int64), "I64 (3,)")],
)
def test_keys_of_another_form_are_refused(run_on_2017, tmp_path, kept, named):
    head = tmp_path / "runs" / "0001-margin-linear" / "head.safetensors"
    keep_keys(head, kept)
    assert refusal(evaluate, EvalConfig(head=head), error=HeadError) == (
        f"head {head} has trained_on as {named}; expected U64 (images,). Train it again."
    )


def test_damaged_keys_are_named(run_on_2017, tmp_path):
    head = tmp_path / "runs" / "0001-margin-linear" / "head.safetensors"
    data, wanted = bytearray(head.read_bytes()), load_trained_on(head)[3].tobytes()
    data[data.index(wanted)] ^= 1
    head.write_bytes(data)
    assert refusal(evaluate, EvalConfig(head=head), error=HeadError) == (
        f"head {head} cannot be used: its checksum does not match: it was damaged, or changed by hand; train it again."
    )


def test_a_head_keeps_eight_bytes_an_image(run_on_2017, tmp_path):
    kept = load_trained_on(tmp_path / "runs" / "0001-margin-linear" / "head.safetensors")
    # Of COCO's images two keys.
    assert (kept.dtype, len(kept)) == (np.uint64, 2 * 36)
    assert (np.diff(kept) > 0).all()


def trained_on(cache, tmp_path, **changes):
    return train(TrainConfig(cache=cache.path, epochs=1, batch_size=4, name="r", runs_dir=tmp_path / "runs", **changes))


def test_the_same_files_under_another_tables_name_and_other_names_are_refused(tmp_path):
    """Merged or not, in any split: the names of the images do not matter."""
    first = of_bytes(tmp_path / "first.h5", range(12), splits=[TRAIN] * 8 + [VAL] * 4)
    second = of_bytes(tmp_path / "second.h5", [3, 100, 0, 101], splits=[TEST], prefix="q")
    run = trained_on(first, tmp_path)["run"]
    assert refusal(evaluate, EvalConfig(head=run, cache=second.path)) == (
        f"2 of the 4 test images were trained on by {run}: figures on them say nothing about new images. Measure on "
        "images held out from it, or see the figures all the same with --allow-leak."
    )
    assert refusal(find_failures, FailuresConfig(head=run, cache=second.path)).startswith("2 of the 4 test images")


def test_other_files_under_the_same_names_are_measured(tmp_path):
    first = of_bytes(tmp_path / "first.h5", range(12), splits=[TRAIN] * 8 + [VAL] * 4)
    names = {"files": first.image_files, "ids": first.image_ids, "dataset": "first", "splits": (TEST,)}
    other = cache_of(tmp_path / "other.h5", digests=digests_of(f"other {row}" for row in range(12)), **names)
    run = trained_on(first, tmp_path)["run"]
    assert evaluate(EvalConfig(head=run, cache=other.path))["leakage"] == {
        "checked": True,
        "trained_on": 0,
        "images": 12,
    }


@pytest.fixture
def copies(tmp_path):
    """Twenty images: of train's ten, three are test images too and one a val image; two of test are of val."""
    return of_bytes(
        tmp_path / "copies.h5",
        [*range(10), 50, 51, 52, 3, *(0, 1, 2, 50, 51, 60)],
        splits=[TRAIN] * 10 + [VAL] * 4 + [TEST] * 6,
    )


def test_copies_between_splits_are_counted(copies):
    assert split_copies(copies) == [
        {"split": "test", "images": 6, "copies": 2, "of": "val"},
        {"split": "test", "images": 6, "copies": 3, "of": "train"},
        {"split": "val", "images": 4, "copies": 1, "of": "train"},
    ]


def test_byte_copies_of_training_images_are_refused_and_the_way_out_is_named(copies, tmp_path):
    result = trained_on(copies, tmp_path)
    assert result["remarks"] == [
        "3 of the 6 test images equal images of train, byte for byte; 1 of the 4 val images equals an image of train, "
        "byte for byte; --drop-cross-split-duplicates leaves those of train out"
    ]
    assert refusal(evaluate, EvalConfig(head=result["run"])) == (
        f"3 of the 6 test images were trained on by {result['run']}: figures on them say nothing about new images. The "
        "train split has images of test: train again with --drop-cross-split-duplicates, which leaves them out, or see "
        "the figures all the same with --allow-leak."
    )
    report = evaluate(EvalConfig(head=result["run"], allow_leak=True))
    assert report["copies"] == {"split": "test", "images": 6, "copies": 3, "of": "train"}
    assert evaluate(EvalConfig(head=result["run"], split="train", allow_leak=True))["copies"] is None
    assert evaluate(EvalConfig(cache=copies.path, zero_shot=True))["copies"]["copies"] == 3


@pytest.mark.parametrize("settings", [{}, {"init": "ridge", "ridge": 1.0}, {"init": "procrustes"}])
def test_without_the_copies_a_head_is_that_of_a_set_that_never_had_them(copies, tmp_path, settings):
    result = trained_on(copies, tmp_path, drop_cross_split_duplicates=True, **settings)
    assert result["train_images"] == 6
    assert result["remarks"] == ["4 training images were left out: val or test has them too"]
    report = evaluate(EvalConfig(head=result["run"]))
    assert report["leakage"] == {"checked": True, "trained_on": 0, "images": 6}

    clean = FeatureCache(copies.path).contents
    (tmp_path / "clean").mkdir()
    with open_writer(tmp_path / "clean" / "copies.h5", clean) as writer:
        keep = np.arange(20) > 3
        problems = {int(row): "left out" for row in np.flatnonzero(~keep)}
        digests = copies.image_digests
        writer.write_images(0, features=np.array(copies.image_features), problems=problems, digests=digests)
        writer.write_texts(0, features=np.array(copies.text_features), tokens=copies.tokens)
    other = train(
        TrainConfig(
            tmp_path / "clean" / "copies.h5",
            epochs=1,
            batch_size=4,
            name="r",
            runs_dir=tmp_path / "others",
            **settings,
        )
    )
    heads = [(folder / "r" / "head.safetensors").read_bytes() for folder in (tmp_path / "runs", tmp_path / "others")]
    assert heads[0] == heads[1]
    assert other["val_rsum"] == result["val_rsum"]


def test_a_train_split_of_nothing_but_copies_is_refused(tmp_path):
    cache = of_bytes(tmp_path / "a.h5", [0, 1, 2, 0, 1, 2], splits=[TRAIN] * 3 + [TEST] * 3)
    assert refusal(training_images_without_copies, cache, error=TrainingError) == (
        f"all 3 training images of {cache.path} are images of val or test too: there is nothing left to train on with "
        "--drop-cross-split-duplicates."
    )


def training_images_without_copies(cache):
    return training_images(cache, without_copies=True)


def test_a_coco_image_in_two_splits_is_left_out_though_its_files_differ(tmp_path):
    files = [f"train2014/COCO_train2014_{number:012d}.jpg" for number in range(8)] + ["val.jpg"]
    files += [f"val2017/{number:012d}.jpg" for number in (6, 7, 8, 9)]
    cache = cache_of(tmp_path / "two years.h5", files, splits=[TRAIN] * 8 + [VAL] + [TEST] * 4)
    assert split_copies(cache) == []
    run = trained_on(cache, tmp_path)["run"]
    assert "train again with --drop-cross-split-duplicates" in refusal(evaluate, EvalConfig(head=run))
    clean = TrainConfig(
        cache=cache.path, epochs=0, name="clean", runs_dir=tmp_path / "runs", drop_cross_split_duplicates=True
    )
    result = train(clean)
    assert (result["train_images"], result["remarks"][0]) == (
        6,
        "2 training images were left out: val or test has them too",
    )
    assert evaluate(EvalConfig(head=result["run"]))["leakage"]["trained_on"] == 0


def test_copies_of_restval_are_counted_and_nothing_is_left_out_for_them(tmp_path):
    cache = of_bytes(tmp_path / "a.h5", [0, 1, 2, 0, 9], splits=[TRAIN] * 3 + [RESTVAL, TEST])
    assert split_copies(cache) == [{"split": "restval", "images": 1, "copies": 1, "of": "train"}]
    assert len(training_images_without_copies(cache).image_rows) == 3
    assert not any("byte" in remark for remark in trained_on(cache, tmp_path)["remarks"])
