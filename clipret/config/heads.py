"""Settings of stage 2: training a head, and measuring it."""

from dataclasses import dataclass
from pathlib import Path

from clipret.config.checks import above, as_paths, at_least, one_of, within
from clipret.config.choices import (
    DEVICES,
    HEADS,
    KEEPS,
    LOSSES,
    PROTOCOLS,
    REDUCTIONS,
    RUNS_DIR,
    SCHEDULES,
    SEED,
    SPLITS,
)
from clipret.errors import UsageError


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
        as_paths(self, "cache", "runs_dir")
        if self.name is not None and (not self.name or "/" in self.name or self.name in (".", "..")):
            raise UsageError(f"--name is '{self.name}'; expected the name of one folder, made below {self.runs_dir}/.")
        one_of("head", self.head, allowed=HEADS)
        one_of("loss", self.loss, allowed=LOSSES)
        one_of("reduction", self.reduction, allowed=REDUCTIONS)
        within("margin", self.margin, low=0, high=1)
        at_least("epochs", self.epochs, low=1)
        at_least("batch-size", self.batch_size, low=1)
        above("lr", self.lr, low=0, at_most=1000)
        within("beta1", self.beta1, low=0, high=1)
        within("beta2", self.beta2, low=0, high=1)
        above("eps", self.eps, low=0, at_most=1)
        within("weight-decay", self.weight_decay, low=0, high=1_000_000)
        one_of("schedule", self.schedule, allowed=SCHEDULES)
        one_of("keep", self.keep, allowed=KEEPS)
        within("seed", self.seed, low=0, high=2**63 - 1)
        one_of("device", self.device, allowed=DEVICES)


@dataclass(frozen=True)
class EvalConfig:
    """Settings of stage 2, evaluation.

    cache      the features; None: the ones that the run was trained on
    head       a head file or a run's folder; None: the newest run below runs_dir, unless zero_shot
    zero_shot  evaluate CLIP's own projections alone
    runs_dir   where runs are kept
    protocol   names of protocols (protocols.py); none: the one that the data set is usually measured by
    split      the split that gives queries and gallery, for protocol `split`; None: test
    allow_leak measure also where the gallery holds images that the head was trained on
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
    protocol: tuple[str, ...] = ()
    split: str | None = None
    allow_leak: bool = False
    k: tuple[int, ...] = (1, 5, 10)
    out: Path | None = None
    block: int = 512
    device: str = "auto"
    seed: int = SEED

    def __post_init__(self):
        as_paths(self, "cache", "head", "runs_dir", "out")
        object.__setattr__(self, "k", tuple(sorted(set(self.k))))
        if not self.k or min(self.k) < 1:
            given = ",".join(map(str, self.k)) or "nothing"
            raise UsageError(f"--k is {given}; expected whole numbers of at least 1, such as 1,5,10.")
        if self.zero_shot and self.head:
            raise UsageError("--zero-shot and --head contradict each other; give one of them.")
        if self.zero_shot and not self.cache:
            raise UsageError("--zero-shot needs a cache; give it with --cache FILE.")
        object.__setattr__(self, "protocol", tuple(dict.fromkeys(self.protocol)))
        for name in self.protocol:
            one_of("protocol", name, allowed=PROTOCOLS)
        if self.split is not None:
            one_of("split", self.split, allowed=SPLITS)
            if self.protocol not in ((), ("split",)):
                raise UsageError(
                    f"--split {self.split} and --protocol {','.join(self.protocol)} contradict each other; "
                    f"every protocol but `split` has images of its own."
                )
        at_least("block", self.block, low=1)
        one_of("device", self.device, allowed=DEVICES)
