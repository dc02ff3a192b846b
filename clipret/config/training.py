"""Settings of stage 2: training a head."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clipret.config import shared
from clipret.config.checks import above
from clipret.config.choices import (
    CAPTIONS_PER_STEP,
    INITS,
    KEEPS,
    PLACEMENTS,
    REDUCTIONS,
    SCHEDULES,
    SIDES,
    TRACKERS,
    TRAIN_PRECISIONS,
    TUNES,
    VIOLATIONS,
)
from clipret.config.margins import Margin
from clipret.config.settings import check, documented, is_none, setting, settings_of
from clipret.config.unused import require_use
from clipret.errors import UsageError
from clipret.heads import HEADS
from clipret.losses import LOSSES

_CCA = "cca"
_HEAD, _LOSS, _STEPS, _MACHINE = "Head", "Loss", "Steps", "Machine"


def _losses_with(name: str) -> tuple[str, ...]:
    """The losses that take a setting."""
    return tuple(loss for loss, row in LOSSES.items() if name in row.settings)


def _of_losses(name: str) -> str:
    return f"Of {' and '.join(_losses_with(name))}"


def _heads_with(name: str) -> tuple[str, ...]:
    """The kinds of head that take a setting."""
    return tuple(head for head, row in HEADS.items() if name in row.settings)


# A block has tokens instead, and what one of the user's own does is not known.
_HEADS_OF_FEATURES = tuple(head for head, row in HEADS.items() if not row.alone)


def _of_heads(name: str) -> str:
    return f"Of {' and '.join(_heads_with(name))}"


def _is_automatic(margin: float | str) -> bool:
    return isinstance(margin, str) and margin.startswith("auto")


def is_of_own_width(init: str) -> bool:
    """Whether a head that starts so has other widths, or biases, than the baseline."""
    return init == _CCA


@documented
@dataclass(frozen=True)
class TrainConfig:
    """Settings of stage 2, training."""

    cache: Path = setting(
        help="Features to train on, by clipret extract; a.h5,b.h5: of several encoders side by side.", swept=False
    )
    name: str | None = setting(
        None,
        "Folder of the run below --runs-dir.",
        shown="0001-margin-linear, ...",
        utf8=True,
        swept=False,
        may_differ=True,
    )
    runs_dir: Path = shared.runs_dir(utf8=True, may_differ=True)
    drop_cross_split_duplicates: bool = setting(
        False, "Leave out training images that equal val or test images, byte for byte."
    )
    head: str = setting(
        "linear",
        f"Kind of head: {', '.join(HEADS)}, or your own, FILE.py:NAME.",
        panel=_HEAD,
        choices=tuple(HEADS),
        or_file=True,
    )
    train: str = setting("both", "Side that learns: both, image or text.", panel=_HEAD, choices=SIDES)
    init: str = setting(
        "clip",
        f"What the head starts as: {', '.join(INITS)}; clip: the encoder's own head, or the closed-form one where "
        "it has none; the last three are solutions in closed form, for heads whose projections learn.",
        panel=_HEAD,
        choices=INITS,
        may_differ=is_of_own_width,
    )
    ridge: float | str = setting(
        "auto",
        "Strength of ridge's pull towards the untrained head, in units of the features' mean square; auto: the best on "
        "val.",
        panel=_HEAD,
        used_with=("init", ("ridge",)),
        may_differ=True,
    )
    bias: bool = setting(
        False,
        f"{_of_heads('bias')}: a projection that learns has a bias, 0 at the start, also where the encoder's has none.",
        panel=_HEAD,
        used_with=("head", _heads_with("bias")),
    )
    adapter_reduction: int = setting(
        4,
        "The embedding is this many times as wide as the bottleneck.",
        panel=_HEAD,
        at_least=1,
        at_most=1_000_000,
        used_with=("head", _heads_with("adapter_reduction")),
    )
    adapter_ratio: float = setting(
        0.2,
        "Share of the adapter in the embedding.",
        panel=_HEAD,
        at_least=0,
        below=1,
        used_with=("head", _heads_with("adapter_ratio")),
    )
    adapter_relu: bool = setting(
        True, "Whether the adapter ends in a ReLU.", panel=_HEAD, used_with=("head", _heads_with("adapter_relu"))
    )
    hidden: int = setting(
        1024,
        f"{_of_heads('hidden')}: the width inside.",
        panel=_HEAD,
        at_least=1,
        at_most=1_000_000,
        used_with=("head", _heads_with("hidden")),
    )
    blocks: int = setting(
        1,
        f"{_of_heads('blocks')}: how many follow each other.",
        panel=_HEAD,
        at_least=1,
        at_most=8,
        used_with=("head", _heads_with("blocks")),
    )
    tune: str = setting(
        "all",
        f"{_of_heads('tune')}: what learns of the last block: all, norms (its LayerNorms) or lora (LoRA on its "
        "matrices). The projection behind it always learns.",
        panel=_HEAD,
        choices=TUNES,
        used_with=("head", _heads_with("tune")),
    )
    rank: int = setting(8, "Rank of lora.", panel=_HEAD, at_least=1, at_most=4_096, used_with=("tune", ("lora",)))
    loss: str = setting(
        "margin",
        f"Loss on cosine similarities: {', '.join(LOSSES)}, or your own, FILE.py:NAME.",
        panel=_LOSS,
        choices=tuple(LOSSES),
        or_file=True,
    )
    margin: float | str = setting(
        0.1,
        f"{_of_losses('margin')}, in cosine: a number, START:END, auto or auto:Q (a quantile of negatives).",
        panel=_LOSS,
        used_with=("loss", _losses_with("margin")),
        may_differ=_is_automatic,
    )
    reduction: str = setting(
        "balanced",
        f"{_of_losses('reduction')}: balanced (mean of matching plus mean of others) or mean of all pairs.",
        panel=_LOSS,
        choices=REDUCTIONS,
        used_with=("loss", _losses_with("reduction")),
    )
    violation: str = setting(
        "max",
        f"{_of_losses('violation')}: max, the hardest negative, or sum.",
        panel=_LOSS,
        choices=VIOLATIONS,
        used_with=("loss", _losses_with("violation")),
    )
    temperature: float | None = setting(
        None,
        f"{_of_losses('temperature')}, held fixed.",
        shown="learned",
        panel=_LOSS,
        above=0,
        at_most=1000,
        used_with=("loss", _losses_with("temperature")),
        may_differ=is_none,
    )
    keep_neighbours: float = setting(
        0.0,
        "Weight of a term beside the loss: items of a batch that are alike by their features stay so.",
        panel=_LOSS,
        at_least=0,
        at_most=1_000,
        used_with=("head", _HEADS_OF_FEATURES),
        may_differ=bool,
    )
    hard_negatives: int = setting(
        0,
        "Hardest negatives of the whole training set that each item adds to its batch, chosen anew every epoch.",
        panel=_LOSS,
        at_least=0,
        at_most=1_000,
    )
    epochs: int = setting(
        30,
        "Passes over the training images; 0 keeps the initial head.",
        panel=_STEPS,
        at_least=0,
        at_most=1_000_000,
        used_with=("steps", (None,)),
        may_differ=True,
    )
    steps: int | None = setting(None, "Updates, instead of epochs.", panel=_STEPS, at_least=1, at_most=1_000_000_000)
    batch_size: int = setting(32, "Images a step.", panel=_STEPS, at_least=1, at_most=1_000_000)
    captions_per_step: str = setting(
        "one", "Captions of an image: one, drawn at random, or all.", panel=_STEPS, choices=CAPTIONS_PER_STEP
    )
    lr: float = setting(1e-4, "Learning rate of AdamW.", panel=_STEPS, above=0, at_most=1000, may_differ=True)
    beta1: float = setting(0.9, "AdamW's first beta.", panel=_STEPS, between=(0, 1), may_differ=True)
    beta2: float = setting(0.98, "AdamW's second beta.", panel=_STEPS, between=(0, 1), may_differ=True)
    eps: float = setting(1e-6, "AdamW's epsilon.", panel=_STEPS, above=0, at_most=1, may_differ=True)
    weight_decay: float = setting(1e-3, "AdamW's weight decay.", panel=_STEPS, between=(0, 1_000_000), may_differ=True)
    clip_norm: float | None = setting(
        None,
        "Largest L2 norm of the gradient.",
        shown="any",
        panel=_STEPS,
        above=0,
        at_most=1_000_000,
        may_differ=is_none,
    )
    ema: float | None = setting(
        None,
        "Decay of the head's moving average, which is then measured and kept.",
        shown="none",
        panel=_STEPS,
        between=(0, 1),
        may_differ=is_none,
    )
    schedule: str = setting(
        "cosine",
        "Learning rate: constant, cosine (to 0), or step.",
        panel=_STEPS,
        choices=SCHEDULES,
        may_differ=True,
    )
    step_epochs: int = setting(
        2,
        "Of step: epochs after which the learning rate falls.",
        panel=_STEPS,
        at_least=1,
        at_most=1_000_000,
        used_with=("schedule", ("step",)),
        may_differ=True,
    )
    step_factor: float = setting(
        0.2,
        "Of step: what the learning rate is multiplied by then.",
        panel=_STEPS,
        above=0,
        at_most=1,
        used_with=("schedule", ("step",)),
        may_differ=True,
    )
    warmup: int = setting(
        0,
        "Steps in which the learning rate rises to --lr.",
        panel=_STEPS,
        at_least=0,
        at_most=1_000_000_000,
        may_differ=True,
    )
    patience: int | None = setting(
        None,
        "Stop after so many epochs without a better val rsum.",
        shown="never",
        panel=_STEPS,
        at_least=1,
        at_most=1_000_000,
        may_differ=True,
    )
    keep: str = setting(
        "best", "Epoch to keep: best by val rsum, or last.", panel=_STEPS, choices=KEEPS, may_differ=True
    )
    precision: str = setting(
        "fp32", "Of matrix products: fp32, tf32 (CUDA) or bf16.", panel=_MACHINE, choices=TRAIN_PRECISIONS
    )
    features: str = setting(
        "auto",
        "Where features live: device, host, disk (the cache's file), or auto: the first that fits.",
        panel=_MACHINE,
        choices=PLACEMENTS,
    )
    memory_limit: float | None = shared.memory_limit(panel=_MACHINE)
    log: tuple[str, ...] = setting(
        (),
        "Also log to tensorboard, wandb, mlflow; commas between.",
        panel=_MACHINE,
        choices=TRACKERS,
        swept=False,
        may_differ=True,
    )
    device: str = shared.device()
    seed: int = shared.seed("Decides the order of images, the captions drawn, a random start.", may_differ=True)

    def __post_init__(self):
        check(self)
        object.__setattr__(self, "ridge", _number("ridge", self.ridge, words=("auto",)))
        object.__setattr__(self, "margin", Margin.parse(self.margin).text)
        object.__setattr__(self, "log", tuple(dict.fromkeys(self.log)))
        if self.name is not None and (not self.name or {"/", "\0"} & set(self.name) or self.name in (".", "..")):
            raise UsageError(f"--name is '{self.name}'; expected the name of one folder, made below {self.runs_dir}/.")
        if self.head in HEADS and self.init not in HEADS[self.head].inits:
            heads = [name for name, row in HEADS.items() if self.init in row.inits]
            raise UsageError(f"--init {self.init} is for --head {', '.join(heads)}; the head is {self.head}.")
        if self.init == _CCA and self.train != "both":
            raise UsageError(f"--init {_CCA} solves for both sides; --train is {self.train}, expected both.")
        if self.ridge != "auto":
            above("ridge", self.ridge, low=0, at_most=1e12)
        if self.temperature is not None:
            require_use(self, ("temperature",))


# Settings that say where it was done, and nothing of what came of it.
PLACES = ("cache", "name", "runs_dir", "log", "features", "memory_limit", "device")
# Setting -> the setting that decides whether it is used, and with which values it is.
USED_WITH = {name: rule.used_with for name, rule in settings_of(TrainConfig).items() if rule.used_with}


def _number(option: str, value, *, words: tuple[str, ...]) -> float | str:
    """A number, possibly given as text, or one of the words."""
    if value in words:
        return value
    try:
        return float(value)
    except (TypeError, ValueError):
        raise UsageError(f"--{option} is '{value}'; expected a number, or {' or '.join(words)}.") from None


def in_use(settings: Mapping[str, Any], name: str) -> bool:
    """Whether the setting of that name is used with these settings; missing ones have their defaults."""
    decider, values = USED_WITH.get(name, (None, ()))
    return decider is None or settings.get(decider, getattr(TrainConfig, decider)) in values
