import json
import logging
import os
import random
import struct
import sys
import tarfile
import types
import warnings

import numpy as np
import pytest
import torch
from PIL import Image
from zoo import ABSENT, encoded, make_zoo, noise, png, see_through

from clipret import ExtractConfig, FeatureCache, extract
from clipret.errors import DatasetError
from clipret.images import NOT_FOUND, ImageBatches, on_white, open_image, reason_of


@pytest.fixture(scope="module")
def zoo(tmp_path_factory):
    """Folder, readable names, and the other names with the beginnings of their reasons."""
    folder = tmp_path_factory.mktemp("zoo")
    return folder, *make_zoo(folder)


@pytest.fixture(scope="module")
def preprocess():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from clip.clip import _transform
    return _transform(64)


@pytest.fixture
def read(preprocess):
    """(pixels, problems) of all images of a list as one batch."""

    def read(names, folder, *, background="clip", side=64, todo=None, **changes):
        batches = ImageBatches(
            names,
            root=folder,
            preprocess=changes.get("preprocess", preprocess),
            background=background,
            side=side,
            batches=[range(len(names))],
            todo=np.ones(len(names), dtype=bool) if todo is None else todo,
        )
        start, pixels, problems = batches[0]
        assert start == 0
        assert pixels.shape == (len(names), 3, side, side)
        return pixels, problems

    return read


def test_whatever_pil_reads_is_read_as_clips_own_preprocessing_reads_it(zoo, read, preprocess):
    folder, readable, _ = zoo
    pixels, problems = read(readable, folder)
    assert problems == {}
    for row, name in enumerate(readable):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(folder / name) as image:
                assert torch.equal(pixels[row], preprocess(image)), name


def test_what_pil_cannot_read_has_a_reason_and_leaves_zeros(zoo, read):
    folder, readable, unreadable = zoo
    names = [*unreadable, *ABSENT, readable[0]]
    pixels, problems = read(names, folder)
    assert sorted(problems) == list(range(len(names) - 1))
    expected = {**unreadable, "folder.jpg": "a folder, not a file", "missing.jpg": "file not found"}
    for row, reason in problems.items():
        assert reason.startswith(expected[names[row]]), names[row]
        assert 0 < len(reason.encode()) < 160
        assert reason.isprintable()
    assert not pixels[:-1].any()
    assert pixels[-1].any()


def test_no_spoiled_copy_of_any_image_ends_the_reading(zoo, read, tmp_path):
    """Twelve copies of each small file: cut anywhere, or with bytes changed anywhere."""
    folder, readable, _ = zoo
    chance, names = random.Random(0), []
    for name in readable:
        data = (folder / name).read_bytes()
        if name == "large.png":
            continue
        for number in range(12):
            spoiled = bytearray(data[: chance.randrange(len(data))] if number % 2 else data)
            for _ in range(chance.choice([1, 5, 100])):
                if spoiled:
                    spoiled[chance.randrange(min(len(spoiled), 300))] = chance.randrange(256)
            names.append(f"{number}-{name}")
            (tmp_path / names[-1]).write_bytes(spoiled)
    pixels, problems = read(names, tmp_path)
    assert len(names) // 3 < len(problems) < len(names)
    assert all(reason.isprintable() and 0 < len(reason.encode()) < 160 for reason in problems.values())
    assert not pixels[list(problems)].any()


@pytest.mark.parametrize(
    ("size", "side", "reason"),
    [
        ((20_000, 1), 224, "too elongated: 20000x1 would be resized to 4480000x224"),
        ((1, 20_000), 224, "too elongated: 1x20000 would be resized to 224x4480000"),
        ((20_000, 50), 224, None),
        ((1, 1), 224, None),
    ],
)
def test_a_line_that_clips_resize_would_blow_up_is_refused_before_it_is_decoded(size, side, reason, read, tmp_path):
    (tmp_path / "line.png").write_bytes(encoded(Image.new("L", size, 200), "PNG"))
    _, problems = read(["line.png"], tmp_path, side=side, preprocess=lambda _: torch.ones(3, side, side))
    assert problems.get(0) == reason


def test_rows_that_are_not_asked_for_are_not_opened(read, tmp_path):
    (tmp_path / "a.png").write_bytes(encoded(noise(), "PNG"))
    pixels, problems = read(["a.png", "gone.png", "a.png"], tmp_path, todo=np.array([True, False, False]))
    assert problems == {}
    assert [bool(image.any()) for image in pixels] == [True, False, False]


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_half_transparent_pixels_are_mixed_with_white(mode):
    image = noise("RGBA")
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    image = image.convert(mode)
    colours, alpha = np.split(np.asarray(image.convert("RGBA"), dtype=np.float64), [3], axis=2)
    expected = colours * alpha / 255 + 255 - alpha
    np.testing.assert_allclose(np.asarray(on_white(image), dtype=np.float64), expected, atol=1)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA", "RGBa"])
def test_what_lies_under_full_transparency_is_white(mode):
    image = see_through("RGBA").convert("P").convert("PA") if mode == "PA" else see_through(mode)
    if mode == "PA":
        image.putalpha(see_through("RGBA").getchannel("A"))
    painted = np.asarray(on_white(image))
    clear = np.asarray(see_through("RGBA").getchannel("A")) == 0
    assert (painted[clear] == 255).all()
    assert (painted[~clear] < 255).any()


def test_images_without_transparency_are_left_as_they_are_on_white(zoo, read):
    folder, readable, _ = zoo
    clip, white = (read(readable, folder, background=background)[0] for background in ("clip", "white"))
    changed = {name for row, name in enumerate(readable) if not torch.equal(clip[row], white[row])}
    assert changed == {
        *("rgba.png", "la.png", "rgba.webp", "palette-bytes.png", "palette-index.png", "palette-index.gif"),
        *("grey-key.png", "colour-key.png", "one-bit-key.png"),
    }


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (FileNotFoundError(2, "No such file or directory", "/x"), NOT_FOUND),
        (PermissionError(13, "Permission denied", "/x"), "permission denied"),
        (OSError(5, "Input/output error", "/x"), "Input/output error"),
        (OSError("broken data stream when reading image file"), "broken data stream when reading image file"),
        (MemoryError(), "not enough memory to decode"),
        (struct.error("unpack requires a buffer of 4 bytes"), "error: unpack requires a buffer of 4 bytes"),
        (KeyError("mode"), "KeyError: 'mode'"),
        (ValueError(""), "ValueError:"),
        (DatasetError("s.tar is not a tar file."), "s.tar is not a tar file."),
        (ValueError("two\nlines\x00\x1b[31m and \udcff\ttab"), "two lines [31m and tab"),
        (ValueError("ü" * 200), "ü" * 75),
    ],
)
def test_a_reason_is_one_short_line(error, reason):
    assert reason_of(error) == reason


@pytest.mark.parametrize("error", [MemoryError, KeyError, RecursionError, AssertionError, struct.error])
def test_any_error_of_a_plug_in_is_the_images_own(error, read, tmp_path):
    def fail(image):
        raise error

    (tmp_path / "a.png").write_bytes(encoded(noise(), "PNG"))
    assert list(read(["a.png"], tmp_path, preprocess=fail)[1]) == [0]


def test_an_interruption_is_not_taken_for_a_bad_image(read, tmp_path):
    def interrupt(image):
        raise KeyboardInterrupt

    (tmp_path / "a.png").write_bytes(encoded(noise(), "PNG"))
    with pytest.raises(KeyboardInterrupt):
        read(["a.png"], tmp_path, preprocess=interrupt)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes")
def test_a_pipe_is_not_waited_for(read, tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    assert read(["pipe.jpg"], tmp_path)[1] == {0: "not a regular file"}


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_says_so(read, tmp_path):
    (tmp_path / "a.png").write_bytes(encoded(noise(), "PNG"))
    (tmp_path / "a.png").chmod(0)
    assert read(["a.png"], tmp_path)[1] == {0: "permission denied"}


def test_an_image_of_a_shard_is_read_from_the_tar_file(read, tmp_path, monkeypatch):
    def read_member(path, name):
        with tarfile.open(path) as shard:
            return shard.extractfile(name).read()

    monkeypatch.setitem(sys.modules, "clipret.datasets.shards", types.SimpleNamespace(read_member=read_member))
    (tmp_path / "b.jpg").write_bytes(encoded(noise(), "JPEG"))
    (tmp_path / "void.jpg").write_bytes(b"")
    (tmp_path / "part").mkdir()
    with tarfile.open(tmp_path / "part" / "x.tar", "w") as shard:
        shard.add(tmp_path / "b.jpg", arcname="a/b.jpg")
        shard.add(tmp_path / "void.jpg", arcname="void.jpg")
    names = ["b.jpg", "part/x.tar/a/b.jpg", "part/x.tar/void.jpg", "part/x.tar/gone.jpg", "part/gone.tar/b.jpg"]
    pixels, problems = read(names, tmp_path)
    assert problems == {2: "empty file", 3: NOT_FOUND, 4: NOT_FOUND}
    assert torch.equal(pixels[0], pixels[1])


def test_what_pil_warns_of_and_logs_reaches_no_screen(zoo, read, tmp_path, capfd):
    """One image in each way: the warning of bombs and of palettes, and a TIFF that PIL's plug-in logs about."""
    folder, _, _ = zoo
    assert read(["large.png", "palette-bytes.png"], folder)[1] == {}
    logging.getLogger("PIL.TiffImagePlugin").warning("more samples per pixel than can be decoded")
    assert capfd.readouterr() == ("", "")


def test_an_image_is_opened_but_not_decoded(tmp_path):
    """So that its size can be judged first: this one has no pixels to decode."""
    (tmp_path / "a.png").write_bytes(png(20, 30))
    with open_image("a.png", root=tmp_path) as image:
        assert image.size == (20, 30)


@pytest.fixture(scope="module")
def coco_zoo(tmp_path_factory):
    """A COCO folder of every kind of image file; the readable ones, and the others with how their reasons begin."""
    root = tmp_path_factory.mktemp("zoo")
    readable, unreadable = make_zoo(root / "train2017")
    names = {"train2017": [*readable, *unreadable, *ABSENT], "val2017": ["last.png"]}
    (root / "val2017").mkdir()
    (root / "val2017" / "last.png").write_bytes(encoded(noise(), "PNG"))
    (root / "annotations").mkdir()
    for year, files in names.items():
        listed = [{"id": number + 1000 * (year == "val2017"), "file_name": name} for number, name in enumerate(files)]
        captions = [{"id": image["id"], "image_id": image["id"], "caption": "a thing"} for image in listed]
        content = {"images": listed, "annotations": captions}
        (root / "annotations" / f"captions_{year}.json").write_text(json.dumps(content))
    reasons = {f"train2017/{name}": reason for name, reason in unreadable.items()}
    return root, reasons | {f"train2017/{name}": "file not found" for name in ABSENT}


def clips_own_embedding(checkpoint, path, *, background) -> np.ndarray:
    """What clip makes of one image file, alone, with what is transparent pasted on white when that is asked for."""
    with warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore")
        import clip

        model, preprocess = clip.load(checkpoint, device="cpu")
        image = Image.open(path)
        if background == "white" and image.has_transparency_data:
            layer, image = image.convert("RGBA"), Image.new("RGB", image.size, "white")
            image.paste(layer, mask=layer.getchannel("A"))
        with image:
            return model.encode_image(preprocess(image)[None]).numpy()[0]


@pytest.mark.parametrize(("workers", "background"), [(0, "clip"), (2, "clip"), (2, "white")])
def test_every_kind_of_file_is_read_as_clip_reads_it_or_gets_its_reason(
    coco_zoo, checkpoints, tmp_path, family, capfd, workers, background
):
    """Through the whole of an extraction, which nothing of all this ends."""
    root, unreadable = coco_zoo
    settings = ExtractConfig(
        dataset="coco",
        root=root,
        model=str(checkpoints[family]),
        out=tmp_path / "zoo.h5",
        batch_size=4,
        workers=workers,
        dtype="float32",
        background=background,
        skip_missing=True,
        max_problems=0.5,
        device="cpu",
    )
    result = extract(settings)
    assert capfd.readouterr() == ("", "")
    cache = FeatureCache(settings.out)
    assert (result["problems"], result["missing"]) == (len(unreadable), len(ABSENT))
    found = {cache.image_files[row]: reason for row, reason in cache.problems.items()}
    assert found.keys() == unreadable.keys()
    assert all(reason and reason.startswith(unreadable[name]) for name, reason in found.items())
    assert not cache.image_features[~cache.usable].any()
    embeddings = cache.image_features @ cache.projections["image/weight"] + cache.projections.get("image/bias", 0)
    for row in np.flatnonzero(cache.usable):
        name = cache.image_files[row]
        expected = clips_own_embedding(settings.model, root / name, background=background)
        np.testing.assert_allclose(embeddings[row], expected, rtol=0, atol=1e-5 * np.abs(expected).max(), err_msg=name)
