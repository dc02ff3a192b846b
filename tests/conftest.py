"""Small inputs in exactly the real formats: CLIP checkpoints with random weights, COCO folders, caches."""

import hashlib
import json
import multiprocessing
import multiprocessing.forkserver
import os
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from clipret import cli
from clipret.cache import CacheContents, open_writer
from clipret.machine import torch_private
from clipret.machine.tensors import open_tensors, write_tensors
from tests.helpers import REPOSITORY

# The models are tiny, and two threads on a busy machine only wait for each other; nor in processes that tests start.
torch.set_num_threads(1)
os.environ.setdefault("OMP_NUM_THREADS", "1")

TOWERS = {"resnet": (1, 1, 1, 1), "transformer": 2}


def random_clip(family: str, *, embedding: int = 32, side: int = 64, seed: int = 0) -> torch.nn.Module:
    """A small CLIP of one tower family whose every parameter and statistic is random, in eval mode."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from clip.model import CLIP
    torch.manual_seed(seed)
    width = 8 if family == "resnet" else 64
    model = CLIP(embedding, side, TOWERS[family], width, 16, 77, 49408, 64, 1, 2)
    return randomise(model)


def randomise(model: torch.nn.Module) -> torch.nn.Module:
    """Replace what clip initialises to constants (biases, norms, statistics), so that no error in them can hide."""
    with torch.no_grad():
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            if name.endswith("running_var"):
                tensor.uniform_(0.5, 1.5)
            elif name.endswith(("bias", "running_mean")):
                tensor.normal_(std=0.1)
            elif tensor.dim() == 1 and name.endswith("weight"):
                tensor.uniform_(0.5, 1.5)
            # clip.load rounds weights to float16, as OpenAI publishes them; these lose nothing by it.
            tensor.copy_(tensor.half())
    return model.eval()


@pytest.fixture(scope="session", autouse=True)
def own_state(tmp_path_factory):
    """What clipret keeps for a user (the list of code that may be run) is kept elsewhere while tests run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        yield


@pytest.fixture(scope="session", params=sorted(TOWERS))
def family(request) -> str:
    return request.param


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory) -> dict[str, Path]:
    """family -> a state-dict checkpoint of a small random CLIP."""
    folder = tmp_path_factory.mktemp("checkpoints")
    paths = {family: folder / f"{family}.pt" for family in TOWERS}
    for family, path in paths.items():
        torch.save(random_clip(family).state_dict(), path)
    return paths


@pytest.fixture(scope="session")
def pair_models(tmp_path_factory):
    """Small encoders of images alone and of text alone, by their names in tests.helpers.pair_models."""
    from tests.helpers.pair_models import PairModels

    return PairModels(tmp_path_factory.mktemp("pair_models"))


@pytest.fixture(scope="session")
def coco_root(tmp_path_factory) -> Path:
    """A small COCO 2017 as published: JPEGs of noise, every field of its JSON, five to seven captions an image."""
    return write_coco(tmp_path_factory.mktemp("coco"), train=60, test=20)


def write_coco(root: Path, *, train: int, test: int) -> Path:
    generator = np.random.default_rng(0)
    words = [
        "a",
        "man",
        "dog",
        "rides",
        "holds",
        "red",
        "small",
        "train",
        "on",
        "the",
        "street",
        "kitchen",
        "with",
        "two",
        "people",
        "near",
        "food",
    ]
    (root / "annotations").mkdir(parents=True)
    next_id = 9
    for year, count in (("train2017", train), ("val2017", test)):
        (root / year).mkdir()
        images, annotations = [], []
        for _ in range(count):
            next_id += int(generator.integers(1, 50))
            name, (height, width) = f"{next_id:012d}.jpg", generator.integers(40, 120, size=2)
            pixels = generator.integers(0, 256, size=(height, width, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / year / name)
            images.append(
                {
                    "license": 4,
                    "file_name": name,
                    "coco_url": f"http://images.cocodataset.org/{year}/{name}",
                    "height": int(height),
                    "width": int(width),
                    "date_captured": "2013-11-14 17:02:52",
                    "flickr_url": "http://farm7.staticflickr.com/x.jpg",
                    "id": next_id,
                }
            )
            for _ in range(generator.integers(5, 8)):
                caption = " ".join(generator.choice(words, size=generator.integers(4, 12)))
                annotations.append({"image_id": next_id, "id": len(annotations) + 1, "caption": caption})
        order = generator.permutation(len(annotations))
        content = {
            "info": {"description": "COCO 2017 Dataset", "version": "1.0", "year": 2017},
            "licenses": [{"id": 4, "name": "Attribution License"}],
            "images": images,
            "annotations": [annotations[place] for place in order],
        }
        (root / "annotations" / f"captions_{year}.json").write_text(json.dumps(content))
    return root


def contents(
    *, images: int = 60, dims: tuple[int, int, int] = (24, 16, 12), bias: bool = False, seed: int = 0, **changes
):
    """Contents of a cache whose images carry one to four captions; dims: image, text and embedding width.

    bias  whether both projections have one
    """
    generator = np.random.default_rng(seed)
    image_width, text_width, embedding = dims
    counts = generator.integers(1, 5, size=images)
    splits = np.resize(np.array([0, 0, 0, 1, 2], dtype=np.uint8), images)
    projections = {
        "image/weight": generator.normal(size=(image_width, embedding)).astype(np.float32),
        "text/weight": generator.normal(size=(text_width, embedding)).astype(np.float32),
        "logit_scale": np.float32(4.6),
    }
    if bias:
        projections["image/bias"] = generator.normal(size=embedding).astype(np.float32)
        projections["text/bias"] = generator.normal(size=embedding).astype(np.float32)
    values = {
        "image_ids": [str(100 + row) for row in range(images)],
        "image_files": [f"{row}.jpg" for row in range(images)],
        "image_splits": splits,
        "captions": [f"caption {row}" for row in range(counts.sum())],
        "caption_images": np.repeat(np.arange(images), counts),
        "projections": projections,
        "dtype": "float16",
        "inputs": {
            "weights_sha256": "ab" * 32,
            "dataset": "made",
            "precision": "float32",
            "compiled": False,
            "preprocessing": "clip 64 px",
            "decode": "exact",
            "background": "clip",
            "caption_clean": "none",
            "prompt": "{}",
            "dtype": "float16",
        },
        "about": {
            "batch_size": 16,
            "command": "clipret extract --dataset made",
            "context_length": 77,
            "created": "2026-01-01T00:00:00+00:00",
            "library": "made 1.0",
            "model": "made",
            "remarks": [],
            "split_rule": "given",
        },
    }
    values |= changes
    if "caption_ids" not in changes:
        values["caption_ids"] = [str(900 + row) for row in range(len(values["captions"]))]
    return CacheContents(**values)


def digests_of(names) -> np.ndarray:
    """(n, 32) uint8, sha256 of image files in which there is nothing but their names."""
    return np.frombuffer(b"".join(hashlib.sha256(name.encode()).digest() for name in names), np.uint8).reshape(-1, 32)


def write_cache(
    path: Path, made: CacheContents | None = None, *, seed: int = 0, digests: np.ndarray | None = None
) -> Path:
    """A complete cache with features in which an image and its captions have something in common.

    digests  (N, 32) of the image files; None: other ones for every data set and id
    """
    made = made or contents()
    if digests is None:
        digests = digests_of(f"{made.inputs['dataset']} {name}" for name in made.image_ids)
    generator = np.random.default_rng(seed)
    image_width, text_width = (made.width(side) for side in ("image", "text"))
    concepts = generator.normal(size=(len(made.image_ids), 8))
    images = concepts @ generator.normal(size=(8, image_width))
    texts = concepts[made.caption_images] @ generator.normal(size=(8, text_width))
    with open_writer(path, made) as writer:
        noisy = (images + generator.normal(size=images.shape)).astype(made.dtype)
        writer.write_images(0, features=noisy, problems={}, digests=digests)
        noisy = (texts + generator.normal(size=texts.shape)).astype(made.dtype)
        writer.write_texts(0, features=noisy, tokens=np.full(len(texts), 5))
    return path


def keep_keys(head: Path, keys: np.ndarray | None) -> None:
    """Have a head's file say that it was trained on the images of these keys; None: say nothing of it."""
    file = open_tensors(head)
    tensors = {name: tensor for name, tensor in file.read().items() if name != "trained_on"}
    tensors |= {} if keys is None else {"trained_on": torch.from_numpy(keys)}
    write_tensors(head, tensors, metadata={name: text for name, text in file.metadata.items() if name != "sha256"})


@pytest.fixture(scope="session")
def searchable(tmp_path_factory):
    """A cache of drawings with a run: tests.helpers.searchable.Searchable."""
    from tests.helpers.searchable import make_searchable

    return make_searchable(tmp_path_factory.mktemp("searchable"))


@pytest.fixture
def cache_path(tmp_path) -> Path:
    return write_cache(tmp_path / "made.h5")


@pytest.fixture(scope="session")
def children():
    """Processes forked from a server that has everything imported."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.helpers.child_extraction"])
    with pytest.MonkeyPatch.context() as patch:
        # Before Python 3.13 the server does not look for what it preloads where its parent does.
        patch.setenv("PYTHONPATH", str(REPOSITORY), prepend=os.pathsep)
        multiprocessing.forkserver.ensure_running()
    return context


class StopAfter:
    """A progress callback that is interrupted after some batches."""

    def __init__(self, batches):
        self.left = batches

    def __call__(self, progress):
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt


@pytest.fixture
def run(capsys, tmp_path, monkeypatch):
    """Run the command line in an empty folder; returns exit status, standard output and standard error."""
    monkeypatch.chdir(tmp_path)

    def call(*words):
        status = cli.main([str(word) for word in words])
        output = capsys.readouterr()
        return status, output.out, output.err

    return call


@pytest.fixture
def any_bfloat16(monkeypatch):
    """Processors without instructions for bfloat16 compute in it too, slowly."""
    monkeypatch.setattr(torch_private, "cpu_has_bfloat16", lambda: True)
