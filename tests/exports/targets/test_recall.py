"""R@1 of the emoji test split by each library's own code, from the exported folder and the image files."""

import numpy as np
import pytest
import torch
from PIL import Image

from clipret import EvalConfig, ExtractConfig, FeatureCache, TrainConfig, evaluate, extract, train
from clipret.config import ExportConfig
from clipret.exports.checkpoints.stage import export
from clipret.exports.checkpoints.verification import ask
from clipret.images import on_white
from tests.helpers.backbone_models import lively_clip
from tests.helpers.exported import open_here


@pytest.fixture(scope="module")
def run_of(tmp_path_factory):
    """Kind of encoder -> cache, run, and the files of the test split's images, put on white."""
    root, runs = tmp_path_factory.mktemp("recall"), {}

    def trained(kind):
        if kind not in runs:
            model = "tiny-emoji" if kind == "resnet" else str(root / "vit.pt")
            if kind != "resnet":
                torch.save(lively_clip("transformer").state_dict(), model)
            path = root / f"{kind}.h5"
            extract(
                ExtractConfig(
                    "emoji", model=model, out=path, workers=1, device="cpu", precision="fp32", dtype="float32"
                )
            )
            settings = {
                "loss": "infonce",
                "epochs": 3,
                "lr": 1e-3,
                "init": "ridge",
                "runs_dir": root / f"runs-{kind}",
                "device": "cpu",
            }
            runs[kind] = FeatureCache(path), train(TrainConfig(path, **settings))["run"]
        return runs[kind]

    return trained


def recalls(captions, images, own):
    """R@1 and R@10 of texts and of images, from embeddings; ties count against."""
    similarities = captions @ images.T
    mine = similarities[np.arange(len(own)), own]
    best = np.array([mine[own == image].max() for image in range(len(images))])
    others = np.where(own[:, None] == np.arange(len(images)), -np.inf, similarities)
    ranks = {"t2i": (similarities >= mine[:, None]).sum(axis=1), "i2t": (others >= best).sum(axis=0) + 1}
    return {direction: {k: (values <= k).mean() for k in (1, 10)} for direction, values in ranks.items()}


@pytest.mark.ci
@pytest.mark.parametrize(
    ("kind", "target", "way", "turned_at_most"),
    [
        ("resnet", "clip", "clip.load and load_state_dict", 0),
        ("resnet", "open_clip", "open_clip", 0),
        pytest.param("transformer", "open_clip", "open_clip", 0, marks=pytest.mark.slow),
        # Its resize is torchvision's, on tensors: a level more or less here and there, which turns a near tie.
        pytest.param("transformer", "hf", "transformers", 2, marks=pytest.mark.slow),
        pytest.param("transformer", "hf", "sentence-transformers", 2, marks=pytest.mark.slow),
    ],
)
def test_recall_by_the_library_is_that_of_eval(run_of, tmp_path, monkeypatch, kind, target, way, turned_at_most):
    open_here(monkeypatch)
    cache, run = run_of(kind)
    folder = tmp_path / "exported"
    export(ExportConfig(run=str(run), to=target, out=folder))
    rows = np.flatnonzero(cache.image_splits == 2)
    files = []
    for row in rows:
        files.append(tmp_path / f"{row}.png")
        with Image.open(f"{cache.about['root']}/{cache.image_files[row]}") as image:
            on_white(image).save(files[-1])
    captions = np.flatnonzero(np.isin(cache.caption_images, rows))
    texts = [cache.captions[row] for row in captions]
    inputs = {"texts": {"prepared": [], "original": texts}, "images": {"prepared": [], "original": files}}
    arrays = ask(target, way, folder=folder, scratch=tmp_path, **inputs)
    own = np.searchsorted(rows, cache.caption_images[captions])
    measured = recalls(arrays["text/original"], arrays["image/original"], own)
    expected = evaluate(EvalConfig(cache=cache.path, head=str(run), device="cpu"))["results"]["trained"]
    for direction, count in (("t2i", len(texts)), ("i2t", len(rows))):
        for k, share in measured[direction].items():
            turned = round(abs(share - expected[direction][f"R@{k}"]) * count)
            assert turned <= turned_at_most, (direction, k, measured, expected[direction])
