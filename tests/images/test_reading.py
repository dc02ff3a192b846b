import hashlib
import logging
import pickle
import random
import struct
import warnings

import numpy as np
import pytest
import torch
from PIL import Image

from clipret.errors import DatasetError
from clipret.images import NOT_FOUND, ImageReader, of_single_colour, on_white, reason_of
from tests.helpers.zoo import ABSENT, encoded, make_zoo, noise, see_through

SIDE = 64


@pytest.fixture(scope="module")
def zoo(tmp_path_factory):
    """Folder, readable names, and the other names with the beginnings of their reasons."""
    folder = tmp_path_factory.mktemp("zoo")
    return folder, *make_zoo(folder)


@pytest.fixture(scope="module")
def transform():
    """clip's own, whole."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from clip.clip import _transform
    return _transform(SIDE)


@pytest.fixture(scope="module")
def crop(transform):
    """clip's own up to its last two steps, ToTensor and Normalize."""
    return type(transform)(transform.transforms[:-2])


@pytest.fixture
def read(crop):
    """(pixels, problems) of all images of a list as one batch."""

    def read(names, folder, *, rows=None, side=SIDE, **changes):
        values = {"root": folder, "crop": crop, "background": "clip", "side": side} | changes
        rows = range(len(names)) if rows is None else rows
        pixels, problems, *_ = ImageReader(names, **values).read(rows)
        assert pixels.shape == (len(rows), side, side, 3)
        assert pixels.dtype == torch.uint8
        return pixels, problems

    return read


def test_whatever_pil_reads_is_read_as_clips_own_preprocessing_reads_it(zoo, read, transform):
    """Bit for bit, once clip's own last two steps have made floats of the pixels."""
    folder, readable, _ = zoo
    pixels, problems = read(readable, folder)
    assert problems == {}
    to_tensor, normalize = transform.transforms[-2:]
    for row, name in enumerate(readable):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(folder / name) as image:
                assert torch.equal(normalize(to_tensor(pixels[row].numpy())), transform(image)), name


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
    _, problems = read(["line.png"], tmp_path, side=side, crop=lambda _: Image.new("RGB", (side, side)))
    assert problems.get(0) == reason


def test_rows_are_read_in_any_order_and_negative_ones_not_at_all(read, tmp_path):
    (tmp_path / "a.png").write_bytes(encoded(noise(), "PNG"))
    (tmp_path / "b.png").write_bytes(encoded(noise("L"), "PNG"))
    pixels, problems = read(["a.png", "gone.png", "b.png"], tmp_path, rows=np.array([2, -1, 0, 1, 2]))
    assert problems == {3: NOT_FOUND}
    assert [bool(image.any()) for image in pixels] == [True, False, True, False, True]
    assert torch.equal(pixels[0], pixels[4])
    assert not torch.equal(pixels[0], pixels[2])
    assert read([], tmp_path) == (pytest.approx(torch.zeros(0, SIDE, SIDE, 3)), {})


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
    assert list(read(["a.png"], tmp_path, crop=fail)[1]) == [0]


def test_an_interruption_is_not_taken_for_a_bad_image(read, tmp_path):
    def interrupt(image):
        raise KeyboardInterrupt

    (tmp_path / "a.png").write_bytes(encoded(noise(), "PNG"))
    with pytest.raises(KeyboardInterrupt):
        read(["a.png"], tmp_path, crop=interrupt)


def test_what_pil_warns_of_and_logs_reaches_no_screen(zoo, read, tmp_path, capfd):
    """One image in each way: the warning of bombs and of palettes, and a TIFF that PIL's plug-in logs about."""
    folder, _, _ = zoo
    assert read(["large.png", "palette-bytes.png"], folder)[1] == {}
    logging.getLogger("PIL.TiffImagePlugin").warning("more samples per pixel than can be decoded")
    assert capfd.readouterr() == ("", "")


def test_fast_decoding_is_nearly_exact_and_of_jpeg_files_alone(zoo, read, tmp_path):
    folder, readable, unreadable = zoo
    names = [*readable, *unreadable]
    (exact, problems), (fast, also) = (read(names, folder, fast=fast) for fast in (False, True))
    assert problems == also
    assert torch.equal(exact, fast), "these are too small to be scaled"
    large = Image.fromarray(np.asarray(noise())).resize((640, 480), Image.Resampling.BICUBIC)
    for name, kind in (("a.jpg", "JPEG"), ("b.png", "PNG"), ("c.webp", "WEBP"), ("grey.jpg", "JPEG")):
        picture = large.convert("L") if name == "grey.jpg" else large
        (tmp_path / name).write_bytes(encoded(picture, kind))
    exact, fast = (read(["a.jpg", "b.png", "c.webp", "grey.jpg"], tmp_path, fast=fast)[0] for fast in (False, True))
    same = [torch.equal(one, other) for one, other in zip(exact, fast, strict=True)]
    assert same == [False, True, True, False]
    flat = [
        images.double().flatten(1) - images.double().flatten(1).mean(dim=1, keepdim=True) for images in (exact, fast)
    ]
    assert torch.cosine_similarity(*flat).min() > 0.995


def test_fast_decoding_reads_less_of_a_large_jpeg_but_never_less_than_is_needed(read, tmp_path, monkeypatch):
    seen = []
    (tmp_path / "a.jpg").write_bytes(encoded(noise().resize((640, 480)), "JPEG"))
    for side in (50, 60, 100, 200, 300, 480, 600):

        def crop(image, side=side):
            seen.append(image.size)
            return Image.new("RGB", (side, side))

        read(["a.jpg"], tmp_path, fast=True, side=side, crop=crop)
    assert seen == [(80, 60), (80, 60), (160, 120), (320, 240), (640, 480), (640, 480), (640, 480)]


def test_a_reader_can_be_sent_to_another_process(zoo, crop):
    folder, readable, _ = zoo
    reader = ImageReader(readable[:3], root=folder, crop=crop, background="white", side=SIDE)
    again = pickle.loads(pickle.dumps(reader))
    assert torch.equal(again.read(range(3))[0], reader.read(range(3))[0])


def test_the_sha256_of_every_file_that_could_be_read_is_told(tmp_path, crop):
    Image.new("RGB", (9, 9)).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"no image")
    reader = ImageReader(["a.png", "b.png", "gone.png"], root=tmp_path, crop=crop, background="white", side=SIDE)
    expected = [hashlib.sha256((tmp_path / name).read_bytes()).digest() for name in ("a.png", "b.png")]
    for read in (reader.read, reader.read_encoded):
        _, problems, digests, _ = read([1, -1, 0, 2])
        assert [bytes(row) for row in digests] == [expected[1], bytes(32), expected[0], bytes(32)]
        assert sorted(problems) == [0, 3]


def test_an_image_is_of_a_single_colour_when_all_its_pixels_are_equal():
    pixels = torch.zeros(4, 5, 6, 3, dtype=torch.uint8)
    pixels[1] = torch.tensor([1, 2, 3])
    pixels[2, 4, 5, 2] = 1
    pixels[3, :, :, 0] = torch.arange(6)
    assert of_single_colour(pixels).tolist() == [True, True, False, False]


def test_an_image_of_sixteen_bits_becomes_plain_though_the_resize_leaves_specks(tmp_path, crop):
    """Bicubic interpolation of noise goes below its darkest value, and so below what clip makes white."""
    noise = np.random.default_rng(0).integers(300, 65536, (24, 24), dtype=np.uint16)
    Image.fromarray(noise).save(tmp_path / "a.png")
    Image.fromarray(noise % 200).save(tmp_path / "b.png")
    Image.new("RGB", (24, 24), "teal").save(tmp_path / "c.png")
    reader = ImageReader(["a.png", "b.png", "c.png"], root=tmp_path, crop=crop, background="white", side=SIDE)
    for read in (reader.read, reader.read_encoded):
        *_, plain = read(range(3))
        assert plain.tolist() == [True, False, False]
    assert of_single_colour(reader.read(range(3))[0]).tolist() == [False, False, True]
