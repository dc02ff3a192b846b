"""The allowed values of settings, and constants that several settings share."""

from pathlib import Path

SPLITS = ("train", "val", "test", "restval")
# What stands for every split, where a split can be left out.
ALL_SPLITS = "all"
BACKGROUNDS = ("clip", "white")
CAPTION_CLEANINGS = ("none", "lower", "strip-punctuation")
# Protocols for any split of any cache.
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
# What `tap` takes -> the sides whose tokens are kept.
TAPS = {"none": (), "block": ("image", "text"), "both": ("image", "text"), "image": ("image",), "text": ("text",)}
TAP_DTYPES = ("float16", "int8")
DEVICES = ("auto", "cpu", "cuda")
PRECISIONS = ("auto", "fp32", "fp16", "bf16")
DECODINGS = ("exact", "fast")
# The kinds of fast decoding on the CPU and on a GPU, as recorded in a cache.
FAST_DECODERS = {"cpu": "fast, JPEGs at a smaller scale", "cuda": "fast, by nvJPEG"}
# How queries are compared with gallery items unless a scoring of retrieval.scorings is asked for.
COSINE = "cosine"
MAPS = ("pca", "umap")
SIDES = ("both", "image", "text")
INITS = ("clip", "random", "procrustes", "ridge", "cca")
REDUCTIONS = ("balanced", "mean")
VIOLATIONS = ("max", "sum")
CAPTIONS_PER_STEP = ("one", "all")
SCHEDULES = ("constant", "cosine", "step")
TRAIN_PRECISIONS = ("fp32", "tf32", "bf16")
TUNES = ("all", "lora", "norms")
PLACEMENTS = ("auto", "device", "host", "disk")
TRACKERS = ("tensorboard", "wandb", "mlflow")
KEEPS = ("best", "last")
BUNDLED_MODELS = ("tiny-emoji",)
# Default rows per batch. A CPU worker should finish a batch within seconds; on a GPU a batch should be large compared
# to the overhead of launching kernels.
BATCH_SIZES = {"cpu": 32, "cuda": 256}
SEED = 0
RUNS_DIR = Path("runs")
DATA_DIR = Path("data")
