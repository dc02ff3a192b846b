"""How batches are cut and encoded: equal inputs once, on the CPU and as on a device, in the memory there is."""

import shutil
from collections import Counter

import numpy as np
import pytest
import torch

from clipret import ExtractConfig, FeatureCache, VerifyConfig, extract, verify
from clipret.backbones import load_backbone
from clipret.backbones.openai import OpenAIClip
from clipret.cache.inspection import inspect_cache
from clipret.errors import BackboneError
from clipret.extraction import loader as pool
from clipret.extraction.encoding import Encoder
from clipret.extraction.planning import BLOCK_BATCHES, Plan
from tests.conftest import StopAfter, write_coco
from tests.helpers.caches import arrays


@pytest.fixture
def config(coco_root, checkpoints, tmp_path):
    """Settings of a small extraction, in this process; changes by keyword."""

    def make(family="transformer", **changes):
        values = {"dataset": "coco", "root": coco_root, "model": str(checkpoints[family]), "batch_size": 8}
        values |= {"out": tmp_path / "coco.h5", "workers": 0, "device": "cpu"}
        return ExtractConfig(**(values | changes))

    return make


def by_length(texts):
    """As many tokens as the text has letters."""
    tokens = [np.arange(len(text), dtype=np.uint16) for text in texts]
    return tokens, np.array([len(text) for text in texts])


def plan_of(sources, batch_size=4):
    return Plan(batch_size, {"image": np.array(sources), "text": np.array(sources)})


def test_images_are_cut_by_row_number_less_copies_and_batches_that_are_done():
    plan = plan_of([0, 1, 1, 3, 4, 0, 6, 7, 8, 9])
    pending = np.ones(10, dtype=bool)
    pending[[6, 8, 9]] = False
    batches = list(plan.image_batches(range(10), pending=pending))
    assert [batch.rows.tolist() for batch in batches] == [[0, 1, 3], [4, 6, 7]]
    assert [batch.todo.tolist() for batch in batches] == [[True] * 3, [True, False, True]]


def test_captions_are_sorted_by_length_within_a_block_and_keep_their_order_within_a_length():
    generator = np.random.default_rng(0)
    rows = 4 * BLOCK_BATCHES * 2 + 7
    texts = ["x" * int(length) for length in generator.integers(1, 30, size=rows)]
    plan = plan_of(np.arange(rows))
    batches = list(plan.text_batches(range(rows), pending=np.ones(rows, bool), texts=texts, tokenize=by_length))
    in_batches = [row for batch in batches for row in batch.rows.tolist()]
    expected = []
    for start in range(0, rows, 4 * BLOCK_BATCHES):
        block = range(start, min(start + 4 * BLOCK_BATCHES, rows))
        expected += sorted(block, key=lambda row: (len(texts[row]), row))
    assert in_batches == expected
    for batch in batches:
        assert batch.counts.tolist() == [len(texts[row]) for row in batch.rows]
        assert [len(ids) for ids in batch.tokens] == batch.counts.tolist()
        assert len(set(batch.counts)) == 1


def test_what_is_done_moves_no_batch():
    generator = np.random.default_rng(1)
    rows = 300
    texts = ["x" * int(length) for length in generator.integers(1, 30, size=rows)]
    sources = np.arange(rows)
    sources[50:60] = 3
    plan = plan_of(sources)

    def cut(pending):
        batches = plan.text_batches(range(rows), pending=pending, texts=texts, tokenize=by_length)
        return {tuple(batch.rows) for batch in batches}

    everything, pending = cut(np.ones(rows, bool)), generator.random(rows) < 0.05
    some = cut(pending)
    assert some < everything
    assert set(np.flatnonzero(pending & (sources == np.arange(rows)))) <= {row for batch in some for row in batch}


def test_copies_and_weights_are_those_within_the_rows_of_the_process():
    plan = plan_of([0, 0, 2, 0, 2, 5, 5, 1 - 1])
    assert plan.weights("image", range(8)).tolist() == [4, 0, 2, 0, 0, 2, 0, 0]
    assert plan.weights("image", range(2, 7)).tolist() == [0, 0, 2, 0, 0, 2, 0, 0]
    pending = np.array([0, 1, 0, 1, 1, 0, 1, 0], dtype=bool)
    ((rows, sources),) = plan.copies("image", range(8), pending=pending)
    assert (rows.tolist(), sources.tolist()) == ([1, 3, 4, 6], [0, 0, 2, 5])
    ((rows, sources),) = plan.copies("image", range(2, 7), pending=pending)
    assert (rows.tolist(), sources.tolist()) == ([4, 6], [2, 5])


def test_equal_captions_and_equal_images_are_encoded_once(config, checkpoints, tmp_path, monkeypatch):
    root = write_coco(tmp_path / "coco", train=30, test=4)
    paths = sorted((root / "train2017").iterdir())
    for copy, original in ((3, 2), (29, 0), (17, 0)):
        shutil.copy(paths[original], paths[copy])
    encoded = Counter()
    for side in ("image", "text"):
        real = getattr(OpenAIClip, f"encode_{side}")

        def encode(self, inputs, side=side, real=real):
            # Of few rows the first is there several times.
            encoded[side] += len(inputs.unique(dim=0))
            return real(self, inputs)

        monkeypatch.setattr(OpenAIClip, f"encode_{side}", encode)
    result = extract(config(root=root, prompt="{}!", caption_clean="lower"))
    cache = FeatureCache(config().out)
    different = len({text.lower() for text in cache.captions})
    assert result["copied"] == {"image": 3, "text": len(cache.captions) - different}
    # Two images and four captions more: those that are compared with clip at the start.
    assert encoded == {"image": 34 - 3 + 2, "text": different + 4}
    np.testing.assert_array_equal(cache.image_features[[3, 29, 17]], cache.image_features[[2, 0, 0]])
    assert cache.complete


def test_an_unreadable_image_is_counted_with_its_copies(config, tmp_path):
    root = write_coco(tmp_path / "coco", train=18, test=2)
    paths = sorted((root / "train2017").iterdir())
    for row in (1, 7, 15):
        paths[row].write_bytes(b"not an image")
    reports = []
    result = extract(config(root=root, max_problems=0.15), on_progress=reports.append)
    assert result["problems"] == 3
    assert [report.detail["unusable"] for report in reports if report.phase == "images"] == [3, 3, 3]
    assert FeatureCache(config().out).problems == dict.fromkeys((1, 7, 15), "not an image that PIL knows")


@pytest.fixture
def as_on_a_device(monkeypatch):
    """The path that a GPU takes, on the CPU."""
    monkeypatch.setattr(Encoder, "on_cpu", False)


@pytest.mark.parametrize("workers", [0, 2])
def test_the_path_of_a_gpu_gives_the_same_cache(config, family, tmp_path, workers, request):
    extract(config(family, out=tmp_path / "cpu.h5"))
    request.getfixturevalue("as_on_a_device")
    reports = []
    extract(config(family, workers=workers), on_progress=reports.append)
    assert arrays(config().out) == arrays(tmp_path / "cpu.h5")
    assert {report.phase for report in reports} == {"images", "captions"}


@pytest.mark.usefixtures("as_on_a_device")
def test_when_the_device_waits_for_images_progress_says_so(config, monkeypatch):
    import time

    from clipret.images import ImageReader

    real = ImageReader.read

    def read(self, rows):
        time.sleep(0.05)
        return real(self, rows)

    monkeypatch.setattr(ImageReader, "read", read)
    reports = []
    extract(config(), on_progress=reports.append)
    shares = [report.detail.get("waiting for images") for report in reports if report.phase == "images"]
    assert shares[-1].endswith("%")
    assert int(shares[-1].removesuffix("%")) > 50


def short_of_memory(monkeypatch, *, most, message="CUDA out of memory. Tried to allocate 2.00 GiB"):
    """Make encoders fail on more than so many rows, as a full device does."""
    for side in ("image", "text"):
        real = getattr(OpenAIClip, f"encode_{side}")

        def encode(self, inputs, real=real):
            if len(inputs) > most:
                raise torch.OutOfMemoryError(message)
            return real(self, inputs)

        monkeypatch.setattr(OpenAIClip, f"encode_{side}", encode)


@pytest.mark.parametrize("device", [True, False])
def test_want_of_memory_halves_what_is_encoded_at_once_and_is_recorded(config, tmp_path, monkeypatch, device, request):
    extract(config(out=tmp_path / "whole.h5", batch_size=13, dtype="float32"))
    if device:
        request.getfixturevalue("as_on_a_device")
    short_of_memory(monkeypatch, most=4)
    result = extract(config(batch_size=13, dtype="float32"))
    assert result["micro_batch"] == {"image": 4, "text": 4}
    halved, whole = FeatureCache(config().out), FeatureCache(tmp_path / "whole.h5")
    assert halved.micro_batch == {"image": 4, "text": 4}
    np.testing.assert_allclose(halved.image_features, whole.image_features, atol=1e-5)
    np.testing.assert_allclose(halved.text_features, whole.text_features, atol=1e-5)
    assert inspect_cache(config().out)["micro_batch"] == {"image": 4, "text": 4}


def test_memory_for_not_even_one_row_is_one_clear_line(config, monkeypatch):
    monkeypatch.setattr("clipret.extraction.job.Job._require_exact_images", lambda self: None)
    monkeypatch.setattr("clipret.extraction.job.Job._require_exact_texts", lambda self: None)
    message = "[enforce fail at alloc_cpu.cpp:127] . DefaultCPUAllocator: can't allocate memory: you tried to"
    short_of_memory(monkeypatch, most=0, message=message)
    for workers in (0, 1):
        with pytest.raises(BackboneError, match=r"^out of memory while encoding a single image or caption; free"):
            extract(config(workers=workers))


def test_another_error_of_the_encoder_is_not_taken_for_want_of_memory(config, monkeypatch):
    def fail(self, inputs):
        raise RuntimeError("shapes do not fit")

    monkeypatch.setattr(OpenAIClip, "encode_text", fail)
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        extract(config())


@pytest.mark.parametrize("device", [True, False])
def test_fast_decoding_is_another_cache_that_tells_how_far_it_is_from_the_exact_one(
    config, tmp_path, device, request, family
):
    from PIL import Image

    (tmp_path / "photos").mkdir()
    rows = ["image,caption"]
    generator = np.random.default_rng(0)
    for number in range(20):
        noise = Image.fromarray(generator.integers(0, 256, size=(12, 16, 3), dtype=np.uint8))
        noise.resize((640, 480), Image.Resampling.BICUBIC).save(tmp_path / "photos" / f"{number}.jpg", quality=90)
        rows.append(f"{number}.jpg,picture {number}")
    (tmp_path / "shop.csv").write_text("\n".join(rows))
    own = {"dataset": str(tmp_path / "shop.csv"), "root": tmp_path / "photos"}
    extract(config(family, **own, out=tmp_path / "exact.h5"))
    if device:
        request.getfixturevalue("as_on_a_device")
    result = extract(config(family, **own, decode="fast", out=tmp_path / "fast.h5"))
    assert result["decoding"]["images"] == 16
    assert 0.99 < result["decoding"]["cosine"]["min"] <= result["decoding"]["cosine"]["mean"] <= 1
    assert result["decoding"]["centred_cosine"]["min"] < result["decoding"]["cosine"]["min"]
    fast, exact = (FeatureCache(tmp_path / f"{name}.h5") for name in ("fast", "exact"))
    assert fast.fingerprint != exact.fingerprint
    assert (fast.inputs["decode"], exact.inputs["decode"]) == ("fast, JPEGs at a smaller scale", "exact")
    assert not np.array_equal(fast.image_features, exact.image_features)
    one, other = fast.image_features.astype(float), exact.image_features.astype(float)
    cosines = (one * other).sum(1) / np.linalg.norm(one, axis=1) / np.linalg.norm(other, axis=1)
    np.testing.assert_allclose(cosines[:16].mean(), result["decoding"]["cosine"]["mean"], atol=2e-3)
    if not device:
        # In float32, so that what is allowed for rounding is less than what decoding changes.
        extract(config(family, **own, decode="fast", dtype="float32", out=tmp_path / "fast32.h5"))
        result = verify(VerifyConfig(tmp_path / "fast32.h5", sample=20, device="cpu"))
        assert result["sound"], "encoded again from images that were decoded as the cache's were"


def test_bfloat16_is_another_cache_close_to_the_exact_one(config, tmp_path, checkpoints, family):
    from clipret.errors import UsageError

    try:
        load_backbone(str(checkpoints[family]), precision="bf16")
    except UsageError as error:
        pytest.skip(str(error))
    extract(config(family, out=tmp_path / "fp32.h5"))
    extract(config(family, precision="bf16"))
    rounded, exact = FeatureCache(config().out), FeatureCache(tmp_path / "fp32.h5")
    assert (rounded.inputs["precision"], exact.inputs["precision"]) == ("bfloat16", "float32")
    one, other = rounded.image_features.astype(float), exact.image_features.astype(float)
    cosines = (one * other).sum(1) / np.linalg.norm(one, axis=1) / np.linalg.norm(other, axis=1)
    assert cosines.min() > 0.995


def test_compiling_is_for_gpus(config):
    from clipret.errors import UsageError

    with pytest.raises(UsageError) as caught:
        extract(config(compile=True))
    assert str(caught.value) == "--compile is for a GPU; on the CPU the encoder has faster kernels of its own."


@pytest.mark.ci
def test_workers_that_are_spawned_encode_to_the_same_bits(config, tmp_path, monkeypatch):
    """As on systems where processes are not forked: model and reader are sent to them."""
    real = pool.DataLoader

    def spawned(*arguments, **values):
        return real(*arguments, **(values | {"multiprocessing_context": "spawn"}))

    extract(config(out=tmp_path / "whole.h5"))
    monkeypatch.setattr(pool, "DataLoader", spawned)
    extract(config(workers=1))
    assert arrays(config().out) == arrays(tmp_path / "whole.h5")


def test_truncated_captions_are_counted_and_listed(config, tmp_path):
    root = write_coco(tmp_path / "coco", train=10, test=2)
    path = root / "annotations" / "captions_val2017.json"
    path.write_text(path.read_text().replace('"caption": "', '"caption": "' + "dog " * 80, 2))
    extract(config(root=root))
    info = inspect_cache(config().out)
    assert info["captions"]["truncated"] == len(info["truncated"]) == 2
    assert all(80 < caption["tokens"] < 100 for caption in info["truncated"].values())


def test_workers_are_as_many_as_cores_for_each_process(monkeypatch):
    from clipret.extraction import stage
    from clipret.extraction.processes import Rank

    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(12)), raising=False)
    assert stage._workers(ExtractConfig(dataset="coco"), Rank()) == 12
    assert stage._workers(ExtractConfig(dataset="coco"), Rank(1, 16, 1, 8)) == 1
    assert stage._workers(ExtractConfig(dataset="coco", workers=0), Rank()) == 0


def test_worker_processes_are_gone_when_extraction_ends_however_it_ends(config):
    import multiprocessing

    with pytest.raises(KeyboardInterrupt):
        extract(config(workers=2), on_progress=StopAfter(2))
    assert multiprocessing.active_children() == []
    extract(config(workers=2))
    assert multiprocessing.active_children() == []
