"""Which settings of a training make a difference to it."""

from collections.abc import Mapping
from typing import Any

from clipret.config.choices import MARGIN_LOSSES, TEMPERATURE_LOSSES
from clipret.config.training import TrainConfig

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


def in_use(settings: Mapping[str, Any], name: str) -> bool:
    """Whether the setting of that name makes a difference beside these; what they lack is at its default."""
    decider, values = USED_WITH.get(name, (None, ()))
    return decider is None or settings.get(decider, getattr(TrainConfig, decider)) in values
