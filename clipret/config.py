"""Every setting and its default, as frozen dataclasses that refuse bad values when they are made.

The command line, the Python functions and the files of a run all read their defaults from here and nowhere else.
"""

import dataclasses
import shlex
from dataclasses import dataclass
from pathlib import Path

from clipret.errors import UsageError

SPLITS = ("train", "val", "test", "restval")
BACKGROUNDS = ("clip", "white")
DTYPES = ("float16", "float32")
DEVICES = ("auto", "cpu", "cuda")
HEADS = ("linear",)
LOSSES = ("margin",)
REDUCTIONS = ("balanced", "mean")
SCHEDULES = ("constant", "cosine")
KEEPS = ("best", "last")
BUNDLED_MODELS = ("tiny-emoji",)
SEED = 0
RUNS_DIR = Path("runs")
DATA_DIR = Path("data")


@dataclass(frozen=True)
class ExtractConfig:
    """Settings of stage 1, extraction.

    dataset        name of a data set (datasets.DATASETS)
    out            the cache to write; data/DATASET.h5 by default
    model          an OpenAI name, a bundled model, or the path of a checkpoint
    root           where the data set's files are; each data set has its own default
    batch_size     images, or captions, a batch; the bits of a cache depend on it, so a resumed cache keeps its own
    workers        processes that decode images; None: one a core, at most eight
    dtype          how features are stored
    prompt         text around every caption, {} standing for the caption
    background     what shows through transparent pixels: `white`, or `clip` for whatever clip's own transform makes of
                   them; None: the data set's own default
    device         auto: CUDA where there is one
    download_root  where OpenAI's weights are kept; None: ~/.cache/clip
    seed           nothing is drawn at random in extraction; accepted as everywhere
    """

    dataset: str
    out: Path | None = None
    model: str = "ViT-B/32"
    root: Path | None = None
    batch_size: int = 128
    workers: int | None = None
    dtype: str = "float16"
    prompt: str = "{}"
    background: str | None = None
    device: str = "auto"
    download_root: Path | None = None
    seed: int = SEED

    def __post_init__(self):
        _as_paths(self, "out", "root", "download_root")
        _at_least("batch-size", self.batch_size, 1)
        if self.workers is not None:
            _at_least("workers", self.workers, 0)
        _one_of("dtype", self.dtype, DTYPES)
        if self.prompt.count("{}") != 1:
            raise UsageError(f"--prompt is '{self.prompt}'; expected a text with one {{}} where the caption goes.")
        if self.background is not None:
            _one_of("background", self.background, BACKGROUNDS)
        _one_of("device", self.device, DEVICES)

    @property
    def cache(self) -> Path:
        """The cache that extraction writes."""
        return self.out or DATA_DIR / f"{self.dataset}.h5"


@dataclass(frozen=True)
class TrainConfig:
    """Settings of stage 2, training.

    cache           the features to train on
    name            folder of the run below runs_dir; the next free number with loss and head by default
    runs_dir        where runs are kept
    head            kind of head
    loss            loss on the batch's cosine similarities
    margin          m of the margin loss, in cosine
    reduction       how the margin loss weighs its pairs (losses.margin_loss)
    epochs          passes over the training images
    batch_size      images a step, each with one of its captions
    lr, beta1, beta2, eps, weight_decay  of AdamW
    schedule        of the learning rate: constant, or cosine: from lr to 0 along half a cosine over the whole training
    keep            which epoch's head the run keeps: best by validation rsum, or last
    seed            decides the order of the images and the captions drawn
    device          auto: CUDA where there is one
    """

    cache: Path
    name: str | None = None
    runs_dir: Path = RUNS_DIR
    head: str = "linear"
    loss: str = "margin"
    margin: float = 0.1
    reduction: str = "balanced"
    epochs: int = 30
    batch_size: int = 32
    lr: float = 1e-4
    beta1: float = 0.9
    beta2: float = 0.98
    eps: float = 1e-6
    weight_decay: float = 1e-3
    schedule: str = "constant"
    keep: str = "best"
    seed: int = SEED
    device: str = "auto"

    def __post_init__(self):
        _as_paths(self, "cache", "runs_dir")
        if self.name is not None and (not self.name or "/" in self.name or self.name in (".", "..")):
            raise UsageError(f"--name is '{self.name}'; expected the name of one folder, made below {self.runs_dir}/.")
        _one_of("head", self.head, HEADS)
        _one_of("loss", self.loss, LOSSES)
        _one_of("reduction", self.reduction, REDUCTIONS)
        _within("margin", self.margin, 0, 1)
        _at_least("epochs", self.epochs, 1)
        _at_least("batch-size", self.batch_size, 1)
        _above("lr", self.lr, 0, at_most=1000)
        _within("beta1", self.beta1, 0, 1)
        _within("beta2", self.beta2, 0, 1)
        _above("eps", self.eps, 0, at_most=1)
        _within("weight-decay", self.weight_decay, 0, 1_000_000)
        _one_of("schedule", self.schedule, SCHEDULES)
        _one_of("keep", self.keep, KEEPS)
        _within("seed", self.seed, 0, 2**63 - 1)
        _one_of("device", self.device, DEVICES)


@dataclass(frozen=True)
class EvalConfig:
    """Settings of stage 2, evaluation.

    cache      the features; None: the ones that the run was trained on
    head       a head file or a run's folder; None: the newest run below runs_dir, unless zero_shot
    zero_shot  evaluate CLIP's own projections alone
    runs_dir   where runs are kept
    split      the split that gives queries and gallery
    k          the K of R@K and mAP@K
    out        where the metrics are written; None: metrics.json in the run's folder, if there is one
    block      queries scored at once; decides memory, not results
    device     auto: CUDA where there is one
    seed       nothing is drawn at random in evaluation; accepted as everywhere
    """

    cache: Path | None = None
    head: Path | None = None
    zero_shot: bool = False
    runs_dir: Path = RUNS_DIR
    split: str = "test"
    k: tuple[int, ...] = (1, 5, 10)
    out: Path | None = None
    block: int = 512
    device: str = "auto"
    seed: int = SEED

    def __post_init__(self):
        _as_paths(self, "cache", "head", "runs_dir", "out")
        object.__setattr__(self, "k", tuple(sorted(set(self.k))))
        if not self.k or min(self.k) < 1:
            given = ",".join(map(str, self.k)) or "nothing"
            raise UsageError(f"--k is {given}; expected whole numbers of at least 1, such as 1,5,10.")
        if self.zero_shot and self.head:
            raise UsageError("--zero-shot and --head contradict each other; give one of them.")
        if self.zero_shot and not self.cache:
            raise UsageError("--zero-shot needs a cache; give it with --cache FILE.")
        _one_of("split", self.split, SPLITS)
        _at_least("block", self.block, 1)
        _one_of("device", self.device, DEVICES)


def to_dict(config) -> dict:
    """The config as JSON-ready values: paths as strings, tuples as lists."""
    values = dataclasses.asdict(config)
    return {name: _json_ready(value) for name, value in values.items()}


def to_command(subcommand: str, config) -> str:
    """The command line that gives this config: every setting that is not the default, quoted for a shell."""
    words = ["clipret", subcommand]
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if field.default is dataclasses.MISSING or value != field.default:
            words += [f"--{field.name.replace('_', '-')}", str(value)]
    return shlex.join(words)


def _json_ready(value):
    if isinstance(value, Path):
        return str(value)
    return list(value) if isinstance(value, tuple) else value


def _as_paths(config, *names):
    for name in names:
        value = getattr(config, name)
        if value is not None:
            object.__setattr__(config, name, Path(value))


def _one_of(option, value, allowed):
    if value not in allowed:
        raise UsageError(f"--{option} is '{value}'; expected one of: {', '.join(allowed)}.")


def _at_least(option, value, low):
    if not value >= low:
        raise UsageError(f"--{option} is {value}; expected {low} or more.")


def _above(option, value, low, *, at_most):
    if not low < value <= at_most:
        raise UsageError(f"--{option} is {value}; expected a value above {low}, at most {at_most}.")


def _within(option, value, low, high):
    if not low <= value <= high:
        raise UsageError(f"--{option} is {value}; expected a value from {low} to {high}.")
