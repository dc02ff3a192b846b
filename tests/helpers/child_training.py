"""A training in a process of its own, which saves after every epoch, for the tests to kill."""

from clipret import training
from clipret.training import record


def train(config):
    """Begin, or go on, and save whatever the hour."""
    record._SAVE_EVERY_SECONDS = 0
    training.train_many([config], going_on=True)
