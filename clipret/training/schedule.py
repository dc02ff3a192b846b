"""The learning rate over a training."""

import math

from clipret.config import TrainConfig


def learning_rate(config: TrainConfig, *, step: int, steps: int, per_epoch: int) -> float:
    """The learning rate at step `step`, from 0, of a training of `steps`.

    constant  lr
    cosine    lr (1 + cos(pi step / steps)) / 2 (Loshchilov and Hutter 2017, equation 5, without restarts)
    step      lr step_factor^n after n times step_epochs epochs of `per_epoch` steps
    and, in the first `warmup` steps, that times (step + 1) / warmup.
    """
    rate = config.lr
    if config.schedule == "cosine":
        rate *= (1 + math.cos(math.pi * step / steps)) / 2
    elif config.schedule == "step":
        rate *= config.step_factor ** (step // per_epoch // config.step_epochs)
    return rate * min(1.0, (step + 1) / config.warmup) if config.warmup else rate
