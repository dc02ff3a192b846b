"""The values that settings may have, and what several of them share."""

from pathlib import Path

SPLITS = ("train", "val", "test", "restval")
BACKGROUNDS = ("clip", "white")
CAPTION_CLEANINGS = ("none", "lower", "strip-punctuation")
# Those that take any split of any cache.
SPLIT_PROTOCOLS = ("split", "split-equal-texts")
PROTOCOLS = (
    *SPLIT_PROTOCOLS,
    "coco-val2017",
    "coco-val2017-all",
    "coco-karpathy-5k",
    "coco-karpathy-5k-first5",
    "coco-karpathy-1k",
    "coco-karpathy-cxc",
    "coco-karpathy-eccv",
    "flickr30k-karpathy-1k",
    "xm3600",
    "xtd10",
)
COLUMNS = ("image", "caption", "split", "id")
DTYPES = ("float16", "float32")
DEVICES = ("auto", "cpu", "cuda")
PRECISIONS = ("auto", "fp32", "fp16", "bf16")
DECODINGS = ("exact", "fast")
# What fast decoding is on the CPU and on a GPU, as a cache records it.
FAST_DECODERS = {"cpu": "fast, JPEGs at a smaller scale", "cuda": "fast, by nvJPEG"}
SIDES = ("both", "image", "text")
INITS = ("clip", "random", "procrustes", "ridge")
REDUCTIONS = ("balanced", "mean")
VIOLATIONS = ("max", "sum")
CAPTIONS_PER_STEP = ("one", "all")
SCHEDULES = ("constant", "cosine", "step")
TRAIN_PRECISIONS = ("fp32", "tf32", "bf16")
PLACEMENTS = ("auto", "device", "host", "disk")
TRACKERS = ("tensorboard", "wandb", "mlflow")
KEEPS = ("best", "last")
BUNDLED_MODELS = ("tiny-emoji",)
# Rows a batch unless the user says otherwise. A worker on the CPU is to be done with one within seconds; on a GPU a
# batch is to outweigh what starting its kernels costs.
BATCH_SIZES = {"cpu": 32, "cuda": 256}
SEED = 0
RUNS_DIR = Path("runs")
DATA_DIR = Path("data")
