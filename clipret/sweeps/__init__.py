"""Sweeps: many configurations trained with several seeds, chosen among by validation, the chosen one measured."""

from clipret.sweeps.stage import resume_sweep, sweep

__all__ = ["resume_sweep", "sweep"]
