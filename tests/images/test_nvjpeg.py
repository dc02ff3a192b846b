import io
import sys
import warnings

import numpy as np
import pytest
import torch
from PIL import Image

from clipret.errors import UsageError
from clipret.images import ImageReader, decode_on_device
from clipret.images import nvjpeg as devices
from tests.helpers.zoo import ABSENT, encoded, make_zoo, noise

CPU = torch.device("cpu")
SIDE = 64


@pytest.fixture(scope="module")
def crop():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from clip.clip import _transform
    whole = _transform(SIDE)
    return type(whole)(whole.transforms[:-2])


@pytest.fixture
def reader(crop):
    def make(names, folder, **changes):
        return ImageReader(names, **({"root": folder, "crop": crop, "background": "clip", "side": SIDE} | changes))

    return make


def through_device(reader, rows):
    encoded, problems, *_ = reader.read_encoded(rows)
    pixels, device_problems = decode_on_device(encoded, reader=reader, device=CPU)
    assert pixels.shape == (len(rows), SIDE, SIDE, 3)
    assert pixels.dtype == torch.uint8
    assert not problems.keys() & device_problems.keys()
    return pixels, problems | device_problems, [position for position, _, _ in encoded.jpegs]


def cosines(one, other):
    """Of images less their mean, which nearly all images have in common."""
    flat = [
        images.double().flatten(1) - images.double().flatten(1).mean(dim=1, keepdim=True) for images in (one, other)
    ]
    return torch.cosine_similarity(*flat)


def jpeg_of_rgb() -> bytes:
    """A JPEG file that holds red, green and blue as they are, and says so."""
    return encoded(noise(), "JPEG", keep_rgb=True, subsampling=0)


def test_a_device_makes_nearly_the_exact_pixels_and_the_same_problems(reader, tmp_path):
    readable, unreadable = make_zoo(tmp_path)
    for number, size in enumerate([(640, 480), (480, 640), (64, 64), (65, 64), (300, 65), (40, 30)]):
        name = f"{number}.jpg"
        picture = noise("L" if number == 1 else "RGB").resize(size, Image.Resampling.BICUBIC)
        (tmp_path / name).write_bytes(encoded(picture, "JPEG"))
        readable.append(name)
    names = [*readable, *unreadable, *ABSENT]
    ours = reader(names, tmp_path)
    exact, problems, *_ = ours.read(range(len(names)))
    pixels, device_problems, on_device = through_device(ours, range(len(names)))
    assert device_problems == problems
    expected = {
        "plain.jpg",
        "progressive.jpg",
        "grey.jpg",
        "exif-turned.jpg",
        *(f"{number}.jpg" for number in range(6)),
    }
    assert {names[position] for position in on_device} == expected
    elsewhere = [row for row in range(len(names)) if row not in on_device]
    assert torch.equal(pixels[elsewhere], exact[elsewhere])
    assert cosines(pixels[on_device], exact[on_device]).min() > 0.99


def test_only_jpeg_files_that_every_decoder_reads_alike_go_to_the_device(reader, tmp_path):
    """Not those in other colours, cut short, with something behind their end, or that are no JPEG."""
    plain = encoded(noise(), "JPEG")
    contents = {
        "plain.jpg": plain,
        "cmyk.jpg": encoded(noise("CMYK"), "JPEG"),
        "rgb.jpg": jpeg_of_rgb(),
        "cut.jpg": plain[:-40],
        "more.jpg": plain + b"\0",
        "png.jpg": encoded(noise(), "PNG"),
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    ours = reader(list(contents), tmp_path)
    exact, problems, *_ = ours.read(range(6))
    pixels, device_problems, on_device = through_device(ours, range(6))
    assert on_device == [0]
    assert device_problems == problems == {3: "truncated file"}
    assert torch.equal(pixels[1:], exact[1:])


def test_the_first_of_several_pictures_in_one_file_is_read(reader, tmp_path):
    frames = {"save_all": True, "append_images": [noise().rotate(180)]}
    (tmp_path / "a.jpg").write_bytes(encoded(noise(), "MPO", **frames))
    ours = reader(["a.jpg"], tmp_path)
    pixels, problems, on_device = through_device(ours, [0])
    assert (problems, on_device) == ({}, [0])
    assert cosines(pixels, ours.read([0])[0]).min() > 0.99


def test_a_jpeg_file_that_the_device_refuses_has_the_exact_pixels(reader, tmp_path, monkeypatch):
    """Also where it spoils the batch for the others, as nvJPEG does."""
    names = [f"{number}.jpg" for number in range(5)]
    for number, name in enumerate(names):
        (tmp_path / name).write_bytes(encoded(noise().rotate(40 * number), "JPEG"))
    ours, real, calls = reader(names, tmp_path), devices._decode_jpegs, []
    before = through_device(ours, range(5))[0]
    refused = [torch.frombuffer(bytearray((tmp_path / names[row]).read_bytes()), dtype=torch.uint8) for row in (1, 3)]

    def decode(contents, device):
        calls.append(len(contents))
        if any(torch.equal(content, bad) for content in contents for bad in refused):
            raise RuntimeError("nvjpegDecodeBatched failed")
        return real(contents, device)

    devices._require_decoder.cache_clear()
    monkeypatch.setattr(devices, "_decode_jpegs", decode)
    pixels, problems, _ = through_device(ours, range(5))
    assert problems == {}
    assert calls == [5, 1, 1, 1, 1, 1, 1], "one of them to see whether it is the decoder that is wrong"
    assert torch.equal(pixels[[1, 3]], ours.read([1, 3])[0])
    assert torch.equal(pixels[[0, 2, 4]], before[[0, 2, 4]])


def test_a_jpeg_file_that_neither_can_read_has_its_reason(reader, tmp_path):
    content = bytearray(encoded(noise(), "JPEG"))
    # With an impossible table of codes, the header can still be read.
    start = content.index(b"\xff\xc4") + 5
    content[start : start + 16] = b"\xff" * 16
    (tmp_path / "a.jpg").write_bytes(encoded(noise(), "JPEG"))
    (tmp_path / "bad.jpg").write_bytes(content)
    ours = reader(["bad.jpg", "a.jpg"], tmp_path)
    pixels, problems, on_device = through_device(ours, [0, 1])
    assert on_device == [0, 1]
    assert problems == ours.read([0, 1])[1]
    assert list(problems) == [0]
    assert not pixels[0].any()
    assert pixels[1].any()


def test_want_of_memory_on_the_device_is_not_taken_for_a_bad_file(reader, tmp_path, monkeypatch):
    def decode(contents, device):
        raise torch.OutOfMemoryError("CUDA out of memory")

    (tmp_path / "a.jpg").write_bytes(encoded(noise(), "JPEG"))
    monkeypatch.setattr(devices, "_decode_jpegs", decode)
    with pytest.raises(torch.OutOfMemoryError):
        through_device(reader(["a.jpg"], tmp_path), [0])


def test_a_torchvision_without_a_decoder_for_the_device_is_said_to_be_one(reader, tmp_path, monkeypatch):
    """Instead of having PIL decode everything in one process."""

    def decode(contents, device):
        raise RuntimeError("decode_jpegs_cuda: torchvision not compiled with nvJPEG support\nException raised from")

    (tmp_path / "a.jpg").write_bytes(encoded(noise(), "JPEG"))
    devices._require_decoder.cache_clear()
    monkeypatch.setattr(devices, "_decode_jpegs", decode)
    with pytest.raises(UsageError) as caught:
        through_device(reader(["a.jpg"], tmp_path), [0])
    assert str(caught.value) == (
        "--decode is fast, and this torchvision decodes no JPEG files on cpu: decode_jpegs_cuda: torchvision not "
        "compiled with nvJPEG support; use --decode exact."
    )


def test_a_torchvision_that_has_dropped_its_decoders_is_said_to_be_one(reader, tmp_path, monkeypatch):
    (tmp_path / "a.jpg").write_bytes(encoded(noise(), "JPEG"))
    monkeypatch.setitem(sys.modules, "torchvision.io", None)
    with pytest.raises(UsageError) as caught:
        through_device(reader(["a.jpg"], tmp_path), [0])
    assert str(caught.value) == (
        "--decode is fast, and this torchvision has no torchvision.io.decode_jpeg any more; use --decode exact, or "
        "an older torchvision."
    )


def test_no_more_is_decoded_at_once_than_the_device_has_memory_for(reader, tmp_path, monkeypatch):
    names = [f"{number}.jpg" for number in range(6)]
    for name in names:
        (tmp_path / name).write_bytes(encoded(noise(), "JPEG"))
    ours, real, calls = reader(names, tmp_path), devices._decode_jpegs, []

    def decode(contents, device):
        calls.append(len(contents))
        return real(contents, device)

    monkeypatch.setattr(devices, "_decode_jpegs", decode)
    whole = through_device(ours, range(6))[0]
    monkeypatch.setattr(devices, "_MOST_PIXELS_AT_ONCE", 2 * noise().width * noise().height)
    assert torch.equal(through_device(ours, range(6))[0], whole)
    assert calls == [6, 2, 2, 2]


def test_rows_that_need_not_be_read_are_zeros_and_a_batch_may_have_none(reader, tmp_path):
    (tmp_path / "a.jpg").write_bytes(encoded(noise(), "JPEG"))
    ours = reader(["a.jpg"], tmp_path)
    pixels, problems, _ = through_device(ours, np.array([-1, 0, -1]))
    assert [bool(image.any()) for image in pixels] == [False, True, False]
    assert problems == {}
    assert not through_device(ours, np.array([-1, -1]))[0].any()


def test_a_jpeg_of_red_green_and_blue_is_one_indeed():
    """Or the test above would test nothing."""
    with Image.open(io.BytesIO(jpeg_of_rgb())) as image:
        assert image.info.get("adobe_transform") == 0 or [layer[0] for layer in image.layer] == list(b"RGB")
