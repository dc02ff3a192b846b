"""Settings of stage 2: training a head."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clipret.config.checks import MOST_SEED, above, as_paths, at_least, check_types, check_utf8, one_of, within
from clipret.config.choices import (
    CAPTIONS_PER_STEP,
    DEVICES,
    HEADS,
    INITS,
    KEEPS,
    LOSSES,
    MARGIN_LOSSES,
    PLACEMENTS,
    REDUCTIONS,
    RUNS_DIR,
    SCHEDULES,
    SEED,
    SIDES,
    TEMPERATURE_LOSSES,
    TRACKERS,
    TRAIN_PRECISIONS,
    VIOLATIONS,
)
from clipret.config.margins import Margin
from clipret.errors import UsageError

# Setting -> the setting that decides whether it is of any use, and with which values it is.
USED_WITH = {
    "ridge": ("init", ("ridge",)),
    "adapter_reduction": ("head", ("adapter",)),
    "adapter_ratio": ("head", ("adapter",)),
    "adapter_relu": ("head", ("adapter",)),
    "margin": ("loss", MARGIN_LOSSES),
    "reduction": ("loss", ("margin",)),
    "violation": ("loss", ("triplet",)),
    "temperature": ("loss", TEMPERATURE_LOSSES),
    "epochs": ("steps", (None,)),
    "step_epochs": ("schedule", ("step",)),
    "step_factor": ("schedule", ("step",)),
}


@dataclass(frozen=True)
class TrainConfig:
    """Settings of stage 2, training.

    cache           the features to train on
    name            folder of the run below runs_dir; the next free number with loss and head by default
    runs_dir        where runs are kept
    drop_cross_split_duplicates  leave out the training images that equal images of val or test, byte for byte
    head            kind of head: linear, or adapter (heads.AdapterHead)
    train           which side of the head learns: both, image or text; the other stays CLIP's
    init            what a linear head starts as: clip, random, or a closed-form solution: procrustes, ridge
    ridge           strength of ridge's pull towards CLIP's projection, in units of the features' mean square; auto:
                    the best on val of some
    adapter_reduction, adapter_ratio, adapter_relu  the adapter's bottleneck is the embedding's width divided by
                    reduction; ratio of it is mixed into the embedding; its last ReLU can be left out
    loss            loss on the batch's cosine similarities: margin, infonce, triplet or sigmoid (losses)
    margin          of the losses margin and triplet, in cosine: a number, or START:END (linear over the training), or
                    auto or auto:Q (the Q-quantile of the batch's negative similarities; auto is auto:0.9)
    reduction       how the margin loss weighs its pairs: balanced or mean
    violation       which negatives the triplet loss counts: max, the hardest of each item, or sum, all
    temperature     of the losses infonce and sigmoid, held fixed; None: learned
    hard_negatives  pairs that each item brings along, of its hardest negatives of the whole training set, for either
                    direction; chosen anew every epoch
    epochs          passes over the training images; 0: the head as it starts
    steps           updates in all, instead of epochs
    batch_size      images a step, each with one of its captions
    captions_per_step  one: drawn at random for each image; all: every caption of each image
    lr, beta1, beta2, eps, weight_decay  of AdamW
    clip_norm       largest L2 norm of a run's gradient; None: whatever it is
    ema             decay of the exponential moving average of the head, which is then what is measured and kept; None:
                    no average
    schedule        of the learning rate: constant; cosine: from lr to 0 along half a cosine over the whole training;
                    step: times step_factor every step_epochs epochs
    warmup          steps over which the learning rate rises linearly to lr
    patience        epochs without a better validation rsum after which training stops; None: it does not
    keep            which epoch's head the run keeps: best by validation rsum, or last
    precision       of the matrix products: fp32, tf32 (CUDA), bf16; weights and all else stay float32
    features        where features live: device, host (memory), disk (the cache's file), or auto: the first that fits
    memory_limit    memory that features may take, in GiB; None: most of what is free
    log             trackers that the history is also written to: tensorboard, wandb, mlflow
    seed            decides the order of the images, the captions drawn and a random start
    device          auto: CUDA where there is one
    """

    cache: Path
    name: str | None = None
    runs_dir: Path = RUNS_DIR
    drop_cross_split_duplicates: bool = False
    head: str = "linear"
    train: str = "both"
    init: str = "clip"
    ridge: float | str = "auto"
    adapter_reduction: int = 4
    adapter_ratio: float = 0.2
    adapter_relu: bool = True
    loss: str = "margin"
    margin: float | str = 0.1
    reduction: str = "balanced"
    violation: str = "max"
    temperature: float | None = None
    hard_negatives: int = 0
    epochs: int = 30
    steps: int | None = None
    batch_size: int = 32
    captions_per_step: str = "one"
    lr: float = 1e-4
    beta1: float = 0.9
    beta2: float = 0.98
    eps: float = 1e-6
    weight_decay: float = 1e-3
    clip_norm: float | None = None
    ema: float | None = None
    schedule: str = "cosine"
    step_epochs: int = 2
    step_factor: float = 0.2
    warmup: int = 0
    patience: int | None = None
    keep: str = "best"
    precision: str = "fp32"
    features: str = "auto"
    memory_limit: float | None = None
    log: tuple[str, ...] = ()
    seed: int = SEED
    device: str = "auto"

    def __post_init__(self):
        check_types(self)
        as_paths(self, "cache", "runs_dir")
        check_utf8(self, "name", "runs_dir")
        if self.name is not None and (not self.name or {"/", "\0"} & set(self.name) or self.name in (".", "..")):
            raise UsageError(f"--name is '{self.name}'; expected the name of one folder, made below {self.runs_dir}/.")
        self._check_head()
        self._check_loss()
        self._check_steps()
        one_of("precision", self.precision, allowed=TRAIN_PRECISIONS)
        one_of("features", self.features, allowed=PLACEMENTS)
        if self.memory_limit is not None:
            above("memory-limit", self.memory_limit, low=0, at_most=1_000_000)
        object.__setattr__(self, "log", tuple(dict.fromkeys(self.log)))
        for tracker in self.log:
            one_of("log", tracker, allowed=TRACKERS)
        within("seed", self.seed, low=0, high=MOST_SEED)
        one_of("device", self.device, allowed=DEVICES)

    def _check_head(self) -> None:
        one_of("head", self.head, allowed=HEADS, or_file=True)
        one_of("train", self.train, allowed=SIDES)
        one_of("init", self.init, allowed=INITS)
        if self.head == "adapter" and self.init in ("procrustes", "ridge"):
            raise UsageError(
                f"--init is '{self.init}', which is a projection; an adapter stands behind CLIP's own: use --head "
                f"linear."
            )
        object.__setattr__(self, "ridge", _number("ridge", self.ridge, words=("auto",)))
        if self.ridge != "auto":
            above("ridge", self.ridge, low=0, at_most=1e12)
        at_least("adapter-reduction", self.adapter_reduction, low=1, at_most=1_000_000)
        if not 0 <= self.adapter_ratio < 1:
            raise UsageError(f"--adapter-ratio is {self.adapter_ratio}; expected a value from 0 to below 1.")

    def _check_loss(self) -> None:
        one_of("loss", self.loss, allowed=LOSSES, or_file=True)
        object.__setattr__(self, "margin", Margin.parse(self.margin).given)
        one_of("reduction", self.reduction, allowed=REDUCTIONS)
        one_of("violation", self.violation, allowed=VIOLATIONS)
        if self.temperature is not None:
            above("temperature", self.temperature, low=0, at_most=1000)
            if self.loss not in TEMPERATURE_LOSSES:
                raise UsageError(
                    f"--temperature is for --loss {' and '.join(TEMPERATURE_LOSSES)}; the loss is {self.loss}."
                )
        at_least("hard-negatives", self.hard_negatives, low=0, at_most=1_000)

    def _check_steps(self) -> None:
        at_least("epochs", self.epochs, low=0, at_most=1_000_000)
        if self.steps is not None:
            at_least("steps", self.steps, low=1, at_most=1_000_000_000)
        at_least("batch-size", self.batch_size, low=1, at_most=1_000_000)
        one_of("captions-per-step", self.captions_per_step, allowed=CAPTIONS_PER_STEP)
        above("lr", self.lr, low=0, at_most=1000)
        within("beta1", self.beta1, low=0, high=1)
        within("beta2", self.beta2, low=0, high=1)
        above("eps", self.eps, low=0, at_most=1)
        within("weight-decay", self.weight_decay, low=0, high=1_000_000)
        if self.clip_norm is not None:
            above("clip-norm", self.clip_norm, low=0, at_most=1_000_000)
        if self.ema is not None:
            within("ema", self.ema, low=0, high=1)
        one_of("schedule", self.schedule, allowed=SCHEDULES)
        at_least("step-epochs", self.step_epochs, low=1, at_most=1_000_000)
        above("step-factor", self.step_factor, low=0, at_most=1)
        at_least("warmup", self.warmup, low=0, at_most=1_000_000_000)
        if self.patience is not None:
            at_least("patience", self.patience, low=1, at_most=1_000_000)
        one_of("keep", self.keep, allowed=KEEPS)


def _number(option: str, value, *, words: tuple[str, ...]) -> float | str:
    """A number, also where it comes as text, or one of the words."""
    if value in words:
        return value
    try:
        return float(value)
    except (TypeError, ValueError):
        raise UsageError(f"--{option} is '{value}'; expected a number, or {' or '.join(words)}.") from None


def in_use(settings: Mapping[str, Any], name: str) -> bool:
    """Whether the setting of that name makes a difference beside these; what they lack is at its default."""
    decider, values = USED_WITH.get(name, (None, ()))
    return decider is None or settings.get(decider, getattr(TrainConfig, decider)) in values
