"""Every bad input of the command line with its exact text and exit status."""

import os
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch

from clipret.cache import open_writer, seal
from clipret.heads.files import save_head
from clipret.heads.linear import LinearHead
from tests.conftest import contents, write_cache, write_coco
from tests.helpers import system
from tests.helpers.own_data import make, write_shard


def spoiled_features(path):
    about = contents()
    with open_writer(path, about) as writer:
        features = np.full((60, 24), np.nan, np.float16)
        writer.write_images(0, features=features, problems={})
        rows = len(about.captions)
        writer.write_texts(0, features=np.ones((rows, 16), np.float16), tokens=np.full(rows, 3))


def half_a_cache(path):
    with open_writer(
        path, contents(about={**contents().about, "command": f"clipret extract --dataset made --out {path}"})
    ):
        pass


def other_format(path):
    with pytest.MonkeyPatch.context() as patch:
        write_cache(path)
        patch.setattr(seal, "FORMAT", 9)
        seal.write_seal(path, command=None)


def head(path, dims=(20, 16, 12), weights="ab" * 32):
    metadata = {"model": "RN50", "weights_sha256": weights, "fingerprint": "cd" * 32}
    save_head(LinearHead(contents(dims=dims).projections), path=path, metadata=metadata)


COCO_FILES = "annotations/captions_train2017.json, annotations/captions_val2017.json, train2017, val2017"
BAD_INPUTS = {
    "shard without an image by its endings": (
        "check --dataset fields.tar",
        1,
        "fields.tar: no sample has an image; a sample is all members with the same name up to the first dot, and what "
        "follows has to be .jpg, .jpeg, .png or .webp: found .cap, .img.",
    ),
    "folder with a table of another name": (
        "check --dataset shop",
        1,
        "none of the 1 images in shop has a caption; expected a metadata.jsonl, or beside an image a text file of the "
        "same name, such as a.txt. It has items.csv: give the one with the captions, as --dataset shop/items.csv",
    ),
    "missing cache": (
        "train --cache gone.h5",
        1,
        "there is no cache at gone.h5; make it with: clipret extract --dataset NAME --out gone.h5",
    ),
    "text file named .h5": (
        "train --cache text.h5",
        1,
        "text.h5 is not an HDF5 file; expected a cache written by clipret extract.",
    ),
    "folder instead of a cache": (
        "info folder",
        1,
        "folder is not an HDF5 file; expected a cache written by clipret extract.",
    ),
    "cache of another format": (
        "train --cache format9.h5",
        1,
        "format9.h5 is a cache of format 9, this clipret reads format 1; extract it again, or use the clipret version "
        "that wrote it.",
    ),
    "incomplete cache": (
        "eval --zero-shot --cache half.h5",
        1,
        "half.h5 is incomplete: 60 of 60 images and 155 of 155 captions are still to do; complete it with: "
        "clipret extract --dataset made --out half.h5",
    ),
    "head for other widths": (
        "eval --head narrow.safetensors --cache made.h5",
        1,
        "head narrow.safetensors does not fit the widths of the cache: it has image_weight 20x12, text_weight 16x12, "
        "the cache needs image_weight 24x12, text_weight 16x12; use a cache of model RN50.",
    ),
    "head of another model": (
        "eval --head other.safetensors --cache made.h5",
        1,
        "head other.safetensors was trained on features of model RN50 with weights eeeeeeeeeeee; the weights of "
        "the cache are abababababab. Use a cache of that model.",
    ),
    "missing head": (
        "eval --head gone.safetensors --cache made.h5",
        1,
        "there is no head at gone.safetensors; expected a head.safetensors written by clipret train.",
    ),
    "head without its run": (
        "eval --head other.safetensors",
        2,
        "other.safetensors is not in a run's folder, so its cache is not known; give it with --cache FILE.",
    ),
    "no run": (
        "eval",
        1,
        "there is no trained run in runs/; train one with: clipret train --cache FILE, or look at the encoder itself "
        "with --zero-shot --cache FILE",
    ),
    "NaN features": (
        "train --cache nan.h5",
        1,
        "nan.h5: features of 36 image rows are not finite, the first of row 0; the cache is damaged: delete it and "
        "extract again with: clipret extract --dataset made",
    ),
    **{
        f"a path that is too long: {words[:20]}": (
            words,
            2,
            f"path too long: {words.split()[-1]}",
        )
        for words in (
            f"eval --cache made.h5 --zero-shot --out {'a' * 300}.json",
            f"eval --head {'a' * 300}",
            f"train --cache {'a' * 300}",
            f"info {'a' * 300}",
            f"compare zero-shot {'a' * 300}",
        )
    },
    "K of 0": ("eval --k 0", 2, "--k is 0; expected whole numbers from 1 to 1,000,000,000, such as 1,5,10."),
    "K of letters": ("eval --k one", 2, "--k is 'one'; expected whole numbers separated by commas, such as 1,5,10."),
    "margin below -1": ("train --cache made.h5 --margin -1.5", 2, "--margin is -1.5; expected a value from -1 to 1."),
    "margin schedule beyond 1": (
        "train --cache made.h5 --margin 0.5:2",
        2,
        "--margin is 2.0; expected a value from -1 to 1.",
    ),
    "margin in words": (
        "train --cache made.h5 --margin wide",
        2,
        "--margin is 'wide'; expected a number from -1 to 1, START:END, auto, or auto:Q.",
    ),
    "margin of three": (
        "train --cache made.h5 --margin 1:0:1",
        2,
        "--margin is '1:0:1'; expected a number from -1 to 1, START:END, auto, or auto:Q.",
    ),
    "quantile beyond 1": (
        "train --cache made.h5 --margin auto:2",
        2,
        "--margin auto:Q is 2.0; expected a value from 0 to 1.",
    ),
    "temperature of the margin loss": (
        "train --cache made.h5 --temperature 0.1",
        2,
        "--temperature is for --loss infonce and sigmoid; the loss is margin.",
    ),
    "margin of a loss without one": (
        "train --cache made.h5 --margin 0.2 --loss infonce",
        2,
        "--margin is for --loss margin and triplet; the loss is infonce.",
    ),
    "the margin that is the default": (
        "train --cache made.h5 --margin 0.1 --loss infonce",
        2,
        "--margin is for --loss margin and triplet; the loss is infonce.",
    ),
    "reduction of a loss of one's own": (
        "train --cache made.h5 --reduction mean --loss mine.py:f",
        2,
        "--reduction is for --loss margin; the loss is mine.py:f.",
    ),
    "ratio of a linear head": (
        "train --cache made.h5 --adapter-ratio 0.3",
        2,
        "--adapter-ratio is for --head adapter; the head is linear.",
    ),
    "ridge without it": ("train --cache made.h5 --ridge 3", 2, "--ridge is for --init ridge; the init is clip."),
    "steps of another schedule": (
        "train --cache made.h5 --step-epochs 3",
        2,
        "--step-epochs is for --schedule step; the schedule is cosine.",
    ),
    "epochs and steps": (
        "train --cache made.h5 --epochs 3 --steps 5",
        2,
        "--epochs makes no difference beside --steps 5; leave one of them out.",
    ),
    "adapter from a projection": (
        "train --cache made.h5 --head adapter --init ridge",
        2,
        "--init ridge is for --head linear, mlp, gated; the head is adapter.",
    ),
    "adapter that is nothing else": (
        "train --cache made.h5 --head adapter --adapter-ratio 1",
        2,
        "--adapter-ratio is 1.0; expected a value from 0 to below 1.",
    ),
    "ridge in words": (
        "train --cache made.h5 --init ridge --ridge strong",
        2,
        "--ridge is 'strong'; expected a number, or auto.",
    ),
    "unknown start": (
        "train --cache made.h5 --init zeros",
        2,
        "--init is 'zeros'; expected one of: clip, random, procrustes, ridge, cca.",
    ),
    "unknown side": ("train --cache made.h5 --train all", 2, "--train is 'all'; expected one of: both, image, text."),
    "no patience": ("train --cache made.h5 --patience 0", 2, "--patience is 0; expected 1 or more."),
    "unknown tracker": (
        "train --cache made.h5 --log tensorboard,paper",
        2,
        "--log is 'paper'; expected one of: tensorboard, wandb, mlflow.",
    ),
    "tf32 on the CPU": (
        "train --cache made.h5 --precision tf32 --device cpu",
        2,
        "--precision is tf32, which is for CUDA only; on the CPU use --precision fp32 or bf16.",
    ),
    "resuming what is no run": (
        "train --resume folder",
        1,
        "folder is not a run: it has no config.json; expected a folder made by clipret train.",
    ),
    "resuming with other settings": (
        "train --resume folder --lr 1 --train image",
        2,
        "--resume goes on with the settings that the run has; leave out --lr, --train.",
    ),
    "repeating what is not there": (
        "train --config folder/config.json",
        1,
        "there is no folder/config.json; expected the config.json of a run.",
    ),
    "learning rate of 0": ("train --cache made.h5 --lr 0", 2, "--lr is 0.0; expected a value above 0, at most 1000."),
    "fewer than no epochs": ("train --cache made.h5 --epochs -1", 2, "--epochs is -1; expected 0 or more."),
    "batch size of 0": ("train --cache made.h5 --batch-size 0", 2, "--batch-size is 0; expected 1 or more."),
    "unknown loss": (
        "train --cache made.h5 --loss infonse",
        2,
        "--loss is 'infonse'; expected one of: margin, infonce, triplet, sigmoid, or FILE.py:NAME.",
    ),
    "taken name": (
        "train --cache made.h5 --runs-dir . --name made.h5",
        1,
        "made.h5 exists already; give another --name, or delete it.",
    ),
    "name with a slash": (
        "train --cache made.h5 --name ../x",
        2,
        "--name is '../x'; expected the name of one folder, made below runs/.",
    ),
    "metric that is none": (
        "eval --metrics R@1,accuracy",
        2,
        "--metrics has 'accuracy'; expected some of: R, mAP, mAP_hits, mAP_all, recall, nDCG, MRR, R-Precision, mAP@R, "
        "mean_rank, median_rank, rsum; also with a K, such as R@1: R, mAP, mAP_hits, mAP_all, recall, nDCG.",
    ),
    "results of each query in a text file": (
        "eval --zero-shot --cache made.h5 --per-query ranks.txt",
        2,
        "--per-query is 'ranks.txt'; expected a file that ends with .parquet or .csv.",
    ),
    "results of each query in no folder": (
        "eval --zero-shot --cache made.h5 --per-query gone/ranks.csv",
        2,
        "--per-query is 'gone/ranks.csv', but there is no folder gone; make it first.",
    ),
    "one run to compare": (
        "compare zero-shot",
        2,
        "only `zero-shot` was given; name two runs or more to compare, or a run and one of zero-shot, closed-form.",
    ),
    "a run to compare that is not there": (
        "compare gone zero-shot",
        1,
        "there is no gone; expected a run's folder, a file that clipret eval wrote, zero-shot or closed-form.",
    ),
    "failures without a run": (
        "failures",
        1,
        "there is no trained run in runs/; train one with: clipret train --cache FILE, or look at the encoder itself "
        "with --zero-shot --cache FILE",
    ),
    "reproduce without a cache": (
        "reproduce",
        2,
        "reproduce needs a cache; give it with --cache FILE, or see what was published and the cache that each row "
        "needs with --list.",
    ),
    "unknown split": ("eval --split dev", 2, "--split is 'dev'; expected one of: train, val, test, restval."),
    "empty split": (
        "eval --zero-shot --cache made.h5 --split restval",
        2,
        "split 'restval' has 0 usable images and 0 captions, expected at least one of each; images a split in this "
        "cache: train 36, val 12, test 12, restval 0.",
    ),
    "zero-shot without cache": ("eval --zero-shot", 2, "--zero-shot needs a cache; give it with --cache FILE."),
    "zero-shot with a head": (
        "eval --zero-shot --head x --cache made.h5",
        2,
        "--zero-shot and --head contradict each other; give one of them.",
    ),
    "verify without a cache": (
        "verify gone.h5",
        1,
        "there is no cache at gone.h5; make it with: clipret extract --dataset NAME --out gone.h5",
    ),
    "negative sample": ("verify made.h5 --sample -1", 2, "--sample is -1; expected 0 or more."),
    "model without a sample": (
        "verify made.h5 --model RN50",
        2,
        "--model is only of use to --sample; give --sample N, or leave it out.",
    ),
    "merge of one cache": ("merge made.h5 -o out.h5", 2, "merge is given 1 cache; expected two or more."),
    "merge into one of the caches": (
        "merge made.h5 other.h5 -o made.h5",
        1,
        "made.h5 is one of the caches to merge; give another --out.",
    ),
    "merge of a cache with itself": (
        "merge made.h5 made.h5 -o out.h5",
        1,
        "60 images of made.h5 are in made.h5 too, by their ids: 100, 101, 102, 103, 104, ...; expected caches of "
        "different images.",
    ),
    "workers in words": (
        "extract --dataset emoji --workers many",
        2,
        "--workers is 'many'; expected a whole number, or auto.",
    ),
    "unknown precision": (
        "extract --dataset emoji --precision int8",
        2,
        "--precision is 'int8'; expected one of: auto, fp32, fp16, bf16.",
    ),
    "float16 on the CPU": (
        "extract --dataset emoji --model tiny-emoji --precision fp16 --device cpu",
        2,
        "--precision is fp16, which is for CUDA only; on the CPU use --precision fp32 or bf16.",
    ),
    "compiling for the CPU": (
        "extract --dataset emoji --model tiny-emoji --compile --device cpu",
        2,
        "--compile is for a GPU; on the CPU the encoder has faster kernels of its own.",
    ),
    "unknown decoding": (
        "extract --dataset emoji --decode quick",
        2,
        "--decode is 'quick'; expected one of: exact, fast.",
    ),
    "no time to read": (
        "extract --dataset emoji --read-timeout 0",
        2,
        "--read-timeout is 0.0; expected a value above 0, at most 86400.",
    ),
    "unknown data set": (
        "extract --dataset mnist",
        1,
        "unknown data set 'mnist'; expected one of emoji, coco, flickr30k, xm3600, xtd10, or the path of your own "
        "data: a folder of save_to_disk, Karpathy's tables, Parquet files with the images inside, a folder with "
        "images, a table (.csv, .tsv, .jsonl, .ndjson, .parquet), a .json file, a .zip of images or .tar shards.",
    ),
    "COCO not there": (
        "extract --dataset coco",
        1,
        f"COCO 2017 at data/coco is incomplete: it lacks {COCO_FILES}. Download them with: clipret download coco "
        "--root data/coco; or say where they are with --root (make: ROOT=).",
    ),
    "unknown model": (
        "extract --dataset emoji --model ViT-B/33",
        1,
        "unknown model 'ViT-B/33'; expected one of RN50, RN101, RN50x4, RN50x16, RN50x64, ViT-B/32, ViT-B/16, "
        "ViT-L/14, ViT-L/14@336px, tiny-emoji, or the path of a CLIP checkpoint. Names of other encoders begin with "
        "open_clip:, hf: or pair:; clipret models lists them.",
    ),
    "foreign checkpoint": (
        "extract --dataset emoji --model foreign.pt",
        1,
        "foreign.pt holds a tensor by other names (weight); expected OpenAI's, as in visual.conv1.weight, "
        "token_embedding.weight, ln_final.weight, text_projection. --model takes OpenAI's published models by name, "
        "without a file.",
    ),
    "split rule of another data set": (
        "check --dataset emoji --split karpathy",
        2,
        "--split is 'karpathy'; 'emoji' can be split by: hash.",
    ),
    "unknown split rule": (
        "check --dataset coco --split random",
        2,
        "--split is 'random'; 'coco' can be split by: 2017, karpathy.",
    ),
    "val fraction of 1": (
        "check --dataset coco --val-fraction 1",
        2,
        "--val-fraction is 1.0; expected a value from 0 to below 1.",
    ),
    "no captions an image": (
        "check --dataset emoji --captions-per-image 0",
        2,
        "--captions-per-image is 0; expected 1 or more.",
    ),
    "unknown cleaning": (
        "check --dataset emoji --caption-clean upper",
        2,
        "--caption-clean is 'upper'; expected one of: none, lower, strip-punctuation.",
    ),
    "columns without a name": (
        "check --dataset a.csv --columns image=file,text",
        2,
        "--columns has 'text'; expected NAME=COLUMN with NAME one of image, caption, split, id, such as "
        "image=file,caption=text.",
    ),
    "two columns of images": (
        "check --dataset a.csv --columns image=first,image=second",
        2,
        "--columns names the image twice, 'first' and 'second'; expected one column, or of captions several different "
        "ones.",
    ),
    "empty data set": (
        "check --dataset=",
        2,
        "--dataset is empty; expected the name of a data set, or the path of your own data.",
    ),
    "share of problems above 1": (
        "extract --dataset emoji --max-problems 2",
        2,
        "--max-problems is 2.0; expected a value from 0 to 1.",
    ),
    "download of what is not to be had": (
        "download emoji",
        2,
        "--dataset is 'emoji'; expected one of: coco, flickr30k.",
    ),
    "mirror that is no address": (
        "download coco --base-url mirror/coco",
        2,
        "--base-url is 'mirror/coco'; expected an address that starts with http:// or https://.",
    ),
    "no jobs": ("download coco --jobs 0", 2, "--jobs is 0; expected 1 or more."),
    "unknown protocol": (
        "eval --protocol split,coco",
        2,
        "--protocol is 'coco'; expected one of: split, split-equal-texts, coco-val2017, coco-val2017-all, "
        "coco-karpathy-5k, coco-karpathy-5k-first5, coco-karpathy-1k, coco-karpathy-cxc, coco-karpathy-eccv, "
        "flickr30k-karpathy-1k, xm3600, xtd10.",
    ),
    "split beside a protocol": (
        "eval --protocol coco-val2017 --split val",
        2,
        "--split val and --protocol coco-val2017 contradict each other; every protocol but split and "
        "split-equal-texts has images of its own.",
    ),
    "protocol of another data set": (
        "eval --zero-shot --cache made.h5 --protocol coco-val2017",
        2,
        "--protocol coco-val2017 needs a cache of data set 'coco', made.h5 is of 'made'; extract one with: clipret "
        "extract --dataset coco",
    ),
    "prompt without a place": (
        "extract --dataset emoji --prompt photo",
        2,
        "--prompt is 'photo'; expected a text with one {} where the caption goes.",
    ),
    "unknown dtype": (
        "extract --dataset emoji --dtype int8",
        2,
        "--dtype is 'int8'; expected one of: float16, float32.",
    ),
    "folder that cannot be": (
        "extract --dataset emoji --model tiny-emoji --out text.h5/x.h5",
        1,
        "cannot write text.h5/x.h5: text.h5 is not a folder. Finished rows are kept; once that is fixed, the same "
        "command continues.",
    ),
}


@pytest.fixture
def bad_files(tmp_path):
    write_cache(tmp_path / "made.h5")
    (tmp_path / "text.h5").write_text("hello")
    (tmp_path / "folder").mkdir()
    other_format(tmp_path / "format9.h5")
    spoiled_features(tmp_path / "nan.h5")
    head(tmp_path / "narrow.safetensors")
    head(tmp_path / "other.safetensors", dims=(24, 16, 12), weights="e" * 64)
    torch.save({"weight": torch.zeros(1)}, tmp_path / "foreign.pt")
    write_shard(tmp_path / "fields.tar", {"0.img": b"", "0.cap": "a dot"})
    make(tmp_path / "shop", {"a.jpg": "", "items.csv": "image,caption\na.jpg,one\n"})


@pytest.mark.parametrize(("command", "status", "message"), BAD_INPUTS.values(), ids=BAD_INPUTS.keys())
def test_a_bad_input_ends_in_its_exact_line(run, bad_files, command, status, message):
    half_a_cache(Path("half.h5"))
    status, out, err = run(*command.split())
    assert (status, out, err) == (status, "", f"error: {message}\n")


def test_asking_for_cuda_where_there_is_none_is_said(run, bad_files, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    _, _, err = run("eval", "--zero-shot", "--cache", "made.h5", "--device", "cuda")
    assert err == "error: --device is cuda, but torch sees no CUDA device here; use --device cpu.\n"


@pytest.mark.parametrize(
    ("command", "message", "more"),
    [
        ("eval --fast", "No such option: --fast", "clipret eval --help"),
        ("evaluate", "No such command 'evaluate'.", "clipret --help"),
        ("compare", "Missing argument 'RUN RUN ...'.", "clipret compare --help"),
        ("train", "Missing option '--cache'.", "clipret train --help"),
        ("train --cache made.h5 --lr wide", "Invalid value for '--lr': ", "clipret train --help"),
    ],
)
def test_typers_own_complaints_are_one_line_too(run, command, message, more):
    status, out, err = run(*command.split())
    assert (status, out) == (2, "")
    assert err.startswith(f"error: {message}")
    assert err.endswith(f"({more} tells more)\n")
    assert err.count("\n") == 1


@pytest.fixture
def unprivileged():
    """A folder that anybody can read and nobody can write; the test becomes somebody whom permissions stop."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)

    def become():
        folder.chmod(0o555)
        if system.IS_ROOT:
            os.seteuid(65534)

    yield folder, become
    if system.IS_ROOT:
        os.seteuid(0)
    folder.chmod(0o755)
    shutil.rmtree(folder)


@pytest.mark.skipif(sys.platform == "win32", reason="permissions are of another kind there")
def test_a_place_without_permission_is_said(run, checkpoints, unprivileged):
    folder, become = unprivileged
    write_coco(folder / "coco", train=10, test=2)
    shutil.copy(checkpoints["resnet"], folder / "model.pt")
    words = ["extract", "--dataset", "coco", "--root", folder / "coco", "--model", folder / "model.pt", "--workers", 0]
    assert run(*words, "--out", folder / "made.h5", "-q")[0] == 0
    # Loops that are compiled on first use are kept in the package's folder, where nobody in particular may not write.
    assert run("train", "--cache", folder / "made.h5", "--runs-dir", folder / "first", "--epochs", 1, "-q")[0] == 0
    become()
    assert run(*words, "--out", folder / "c.h5") == (
        1,
        "",
        f"error: cannot write {folder}/c.h5: Permission denied. Finished rows are kept; once that is fixed, the same "
        f"command continues.\n",
    )
    assert run("train", "--cache", folder / "made.h5", "--runs-dir", folder / "runs") == (
        1,
        "",
        f"error: cannot make a run in {folder}/runs: Permission denied; give another --runs-dir.\n",
    )
