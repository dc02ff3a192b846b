"""Extraction beside its floor, a plain loop over clip, and clip-retrieval where it is installed: make bench-extract

ARGS='--models open_clip:ViT-B-16' measures an architecture of open_clip with random weights beside open_clip itself.
"""

import argparse
import functools
import importlib.util
import io
import json
import multiprocessing
import tempfile
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

import h5py
import numpy as np
import torch
from bench_check import WORDS
from benchmark import Seconds, compare
from PIL import Image

import clipret
from clipret.backbones import load_backbone
from clipret.config import ExtractConfig
from clipret.extraction import extract
from clipret.images import ImageReader

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import clip
    from clip.model import CLIP

ASSETS = Path(clipret.__file__).parent / "backbones" / "bundled"
CORES = multiprocessing.cpu_count()
SIZE = (640, 480)
# Embedding, side, layers, width, patch of the image tower; context, vocabulary, width, heads, layers of the text tower.
VIT_B_32 = (512, 224, 12, 768, 32, 77, 49408, 512, 8, 12)


def write_checkpoint(path: Path) -> Path:
    """A ViT-B/32 with random weights, as a state dict."""
    torch.manual_seed(0)
    torch.save(CLIP(*VIT_B_32).state_dict(), path)
    return path


def write_open_clip(folder: Path, architecture: str) -> str:
    """A model of one of open_clip's architectures with random weights, and clip's tokenizer, as --model takes it."""
    import open_clip
    from safetensors.torch import save_file

    config = open_clip.get_model_config(architecture)
    config["text_cfg"] |= {"vocab_size": 49408}
    config["text_cfg"].pop("hf_tokenizer_name", None)
    config["text_cfg"].pop("tokenizer_kwargs", None)
    folder.mkdir()
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": {}}))
    torch.manual_seed(0)
    model = open_clip.create_model(f"local-dir:{folder}", load_weights=False, pretrained_text=False)
    weights = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    save_file(weights, folder / "open_clip_model.safetensors")
    return f"open_clip:local-dir:{folder}"


def write_data(folder: Path, *, images: int, captions: int) -> tuple[Path, Path]:
    """Two data sets in COCO's form: photograph-like JPEGs with one caption, and captions of one image."""
    generator = np.random.default_rng(0)
    names = []
    for number in range(images):
        names.append(f"{number:06d}.jpg")
        (folder / names[-1]).write_bytes(photograph(generator))
    texts = set()
    while len(texts) < captions:
        texts.add(" ".join(generator.choice(WORDS, size=max(6, int(generator.normal(10.5, 2.4))))))
    records = [{"id": number, "file_name": name} for number, name in enumerate(names)]
    pairs = [{"id": number, "image_id": 0, "caption": text} for number, text in enumerate(sorted(texts))]
    paths = folder / "images.json", folder / "captions.json"
    for path, shown, kept in ((paths[0], records, pairs[:1]), (paths[1], records[:1], pairs)):
        path.write_text(json.dumps({"images": shown, "annotations": kept}))
    return paths


def photograph(generator: np.random.Generator) -> bytes:
    """A JPEG of smooth areas, edges and some grain: about 100 kB, as COCO's are."""
    total = np.zeros((SIZE[1], SIZE[0], 3))
    for cells, weight in ((4, 90), (12, 50), (48, 25), (160, 12)):
        noise = generator.integers(0, 256, size=(cells * 3 // 4, cells, 3), dtype=np.uint8)
        total += weight / 128 * (np.asarray(Image.fromarray(noise).resize(SIZE, Image.Resampling.BICUBIC)) - 128.0)
    pixels = np.clip(128 + total + generator.normal(scale=4, size=total.shape), 0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def in_child(work: Callable[[], None]) -> Seconds:
    """Seconds of the work in a process of its own, forked, so that nothing is imported within the time."""
    receiver, sender = multiprocessing.Pipe(duplex=False)
    context = multiprocessing.get_context("fork")

    def timed() -> None:
        started = time.perf_counter()
        work()
        sender.send(time.perf_counter() - started)

    child = context.Process(target=timed)
    child.start()
    child.join()
    if child.exitcode:
        raise RuntimeError(f"a way of the benchmark ended with status {child.exitcode}")
    return Seconds(receiver.recv())


def on_every_core(work: Callable[[int], None]) -> Seconds:
    """Seconds until as many processes as there are cores have done work(number), each on one thread."""
    context = multiprocessing.get_context("fork")
    ready = context.Barrier(CORES + 1)

    def run(number: int) -> None:
        torch.set_num_threads(1)
        ready.wait()
        work(number)

    children = [context.Process(target=run, args=(number,)) for number in range(CORES)]
    for child in children:
        child.start()
    ready.wait()
    started = time.perf_counter()
    for child in children:
        child.join()
    return Seconds(time.perf_counter() - started)


def extract_all(dataset: Path, model: str, **settings) -> None:
    """The whole of extract(): reading annotations, loading the model, comparing with clip, encoding, writing."""
    out = dataset.with_name("bench.h5")
    for path in (out, Path(f"{out}.lock")):
        path.unlink(missing_ok=True)
    extract(ExtractConfig(dataset=str(dataset), model=model, out=out, device="cpu", max_problems=0, **settings))


def loop_over_images(names: list[Path], model: str, *, batch: int = 32) -> None:
    """PIL, clip's preprocess, a batch, clip's encode_image on all cores, append to HDF5."""
    torch.set_num_threads(CORES)
    encoder, preprocess = load_clip(model)
    with torch.inference_mode(), h5py.File(names[0].with_name("loop.h5"), "w") as file:
        width = encoder.visual.output_dim
        rows = file.create_dataset("features", shape=(0, width), maxshape=(None, width), dtype="float16")
        for start in range(0, len(names), batch):
            pixels = torch.stack([preprocess(Image.open(path)) for path in names[start : start + batch]])
            rows.resize(start + len(pixels), axis=0)
            rows[start:] = encoder.encode_image(pixels).numpy()


def loop_over_captions(texts: list[str], model: str, *, folder: Path, batch: int = 32) -> None:
    """clip's tokenize, a batch of 77 tokens each, clip's encode_text on all cores, append to HDF5."""
    torch.set_num_threads(CORES)
    encoder, _ = load_clip(model)
    with torch.inference_mode(), h5py.File(folder / "loop.h5", "w") as file:
        width = encoder.text_projection.shape[1]
        rows = file.create_dataset("features", shape=(0, width), maxshape=(None, width), dtype="float16")
        for start in range(0, len(texts), batch):
            tokens = clip.tokenize(texts[start : start + batch])
            rows.resize(start + len(tokens), axis=0)
            rows[start:] = encoder.encode_text(tokens).numpy()


def load_clip(model: str):
    """clip's own model and preprocess of a checkpoint."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return clip.load(model, device="cpu")


@functools.cache
def load_open_clip(model: str):
    """open_clip's own model, preprocessing and tokenizer."""
    import open_clip

    name = model.removeprefix("open_clip:")
    encoder, preprocess = open_clip.create_model_from_pretrained(name)
    return encoder.eval(), preprocess, open_clip.get_tokenizer(name)


def open_clip_images(names: list[Path], model: str, number: int) -> None:
    """One core's share by open_clip alone: PIL, its preprocessing, its encode_image, 32 at a time."""
    encoder, preprocess, _ = load_open_clip(model)
    share = names[number::CORES]
    with torch.inference_mode():
        for start in range(0, len(share), 32):
            encoder.encode_image(torch.stack([preprocess(Image.open(path)) for path in share[start : start + 32]]))


def open_clip_captions(texts: list[str], model: str, number: int) -> None:
    """One core's share by open_clip alone: its tokenizer and its encode_text, 32 at a time."""
    encoder, _, tokenizer = load_open_clip(model)
    share = texts[number::CORES]
    with torch.inference_mode():
        for start in range(0, len(share), 32):
            encoder.encode_text(tokenizer(share[start : start + 32]))


def clip_retrieval(folder: Path, model: str) -> None:
    """clip-retrieval's inference over the images of a folder."""
    from clip_retrieval.clip_inference.main import main as clip_inference

    clip_inference(
        input_dataset=str(folder),
        output_folder=str(folder / "clip-retrieval"),
        input_format="files",
        clip_model=model,
        batch_size=32,
        num_prepro_workers=CORES,
        enable_text=False,
        use_jit=False,
    )


def bench_images(dataset: Path, model: str, *, label: str, rounds: int) -> None:
    """Images a second, of every way."""
    backbone = load_backbone(model)
    names = sorted(dataset.parent.glob("*.jpg"))
    reader = ImageReader(
        files=[path.name for path in names],
        root=dataset.parent,
        crop=backbone.crop,
        background="clip",
        side=backbone.image_side,
    )
    backbone.prepare()
    shares = np.array_split(np.arange(len(names)), CORES)
    pixels, *_ = reader.read(np.arange(min(len(names), 128)))

    def encode(number: int, *, part: int = 1) -> None:
        for start in range(0, len(shares[number]) // part, 32):
            stop = min(start + 32, len(shares[number]) // part)
            backbone.encode_image(pixels[np.arange(start, stop) % len(pixels)])

    def decode(number: int) -> None:
        for start in range(0, len(shares[number]), 32):
            reader.read(shares[number][start : start + 32])

    def both(number: int) -> None:
        decode(number)
        encode(number)

    fewer = names[: max(1, len(names) // 12)]
    part = 4 if len(names) >= 128 * CORES else 1
    ways = {
        "encoder alone": (partial(on_every_core, partial(encode, part=part)), CORES * (len(names) // CORES // part)),
        "floor: decode, then encode": (partial(on_every_core, both), len(names)),
        "clipret extract": (lambda: in_child(partial(extract_all, dataset, model)), len(names)),
    }
    if model.startswith("open_clip:"):
        load_open_clip(model)
        ways["open_clip on every core"] = (partial(on_every_core, partial(open_clip_images, names, model)), len(names))
    else:
        ways["plain loop over clip"] = (lambda: in_child(partial(loop_over_images, fewer, model)), len(fewer))
    if not model.startswith("open_clip:") and importlib.util.find_spec("clip_retrieval"):
        ways["clip-retrieval"] = (lambda: in_child(partial(clip_retrieval, dataset.parent, model)), len(names))
    compare(
        f"extract-images-{label}",
        work=f"{len(names):,} JPEGs of 640x480, {label}, fp32, {CORES} cores",
        floor="floor: decode, then encode",
        ways={name: run for name, (run, _) in ways.items()},
        units={name: count for name, (_, count) in ways.items()},
        rounds=rounds,
        warm_up=False,
    )


def bench_captions(dataset: Path, model: str, *, label: str, rounds: int) -> None:
    """Captions a second, of every way."""
    backbone = load_backbone(model)
    texts = [pair["caption"] for pair in json.loads(dataset.read_text())["annotations"]]
    backbone.prepare()
    tokens, _ = backbone.tokenize(texts)
    tokens = sorted(tokens, key=len)
    batches = [backbone.pad(tokens[start : start + 32]) for start in range(0, len(tokens), 32)]

    def encode(number: int) -> None:
        for batch in batches[number::CORES]:
            backbone.encode_text(batch)

    fewer = texts[: max(1, len(texts) // 96)]
    loop = partial(loop_over_captions, fewer, model, folder=dataset.parent)
    library = "plain loop over clip, 77 tokens"
    ways = {library: lambda: in_child(loop)}
    if model.startswith("open_clip:"):
        load_open_clip(model)
        library, fewer = "open_clip on every core", texts[: max(CORES, len(texts) // 8)]
        ways = {library: partial(on_every_core, partial(open_clip_captions, fewer, model))}
    compare(
        f"extract-captions-{label}",
        work=f"{len(texts):,} captions of {np.mean([len(ids) for ids in tokens]):.1f} tokens, {label}, fp32, {CORES} "
        f"cores",
        floor="floor: encoder alone",
        ways={
            "floor: encoder alone": partial(on_every_core, encode),
            "clipret extract": lambda: in_child(partial(extract_all, dataset, model)),
            **ways,
        },
        units={"floor: encoder alone": len(texts), "clipret extract": len(texts), library: len(fewer)},
        rounds=rounds,
        warm_up=False,
    )


def model_of(label: str, *, folder: Path) -> str:
    """What --model takes for a model with random weights, or a bundled one."""
    if label.startswith("open_clip:"):
        architecture = label.removeprefix("open_clip:")
        return write_open_clip(folder / architecture, architecture)
    return str(write_checkpoint(folder / "vit-b-32.pt") if label == "ViT-B/32" else ASSETS / f"{label}.pt")


def main() -> None:
    """Measure both models, images and captions."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=6144)
    parser.add_argument("--captions", type=int, default=49152)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--model", "--models", dest="models", default="ViT-B/32,tiny-emoji")
    arguments = parser.parse_args()
    # Processes that are forked with threads already running would wait for threads that they do not have.
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        images, captions = write_data(folder, images=arguments.images, captions=arguments.captions)
        for label in arguments.models.split(","):
            model = model_of(label, folder=folder)
            words = {"label": label.lower().replace("/", "-").replace(":", "-"), "rounds": arguments.rounds}
            bench_images(images, model, **words)
            bench_captions(captions, model, **words)


if __name__ == "__main__":
    main()
