import json
import warnings

import numpy as np
import pytest
import torch
from PIL import Image

from clipret import ExtractConfig, FeatureCache, extract
from tests.helpers.zoo import ABSENT, encoded, make_zoo, noise


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
@pytest.mark.ci
def test_every_kind_of_file_is_read_as_clip_reads_it_or_gets_its_reason(
    coco_zoo, checkpoints, tmp_path, family, capfd, workers, background
):
    """Through a whole extraction, which none of these files stops."""
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
    reasons = {cache.image_files[row]: reason for row, reason in cache.problems.items()}
    assert reasons.keys() == unreadable.keys()
    assert all(reason and reason.startswith(unreadable[name]) for name, reason in reasons.items())
    assert not cache.image_features[~cache.usable].any()
    embeddings = cache.image_features @ cache.projections["image/weight"] + cache.projections.get("image/bias", 0)
    for row in np.flatnonzero(cache.usable):
        name = cache.image_files[row]
        expected = clips_own_embedding(settings.model, root / name, background=background)
        np.testing.assert_allclose(embeddings[row], expected, rtol=0, atol=1e-5 * np.abs(expected).max(), err_msg=name)
