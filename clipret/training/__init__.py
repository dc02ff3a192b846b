"""Stage 2: training heads on cached features."""

from clipret.training.repeating import repeated_config, resume
from clipret.training.stage import train, train_many

__all__ = ["repeated_config", "resume", "train", "train_many"]
