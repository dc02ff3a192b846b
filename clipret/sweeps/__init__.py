"""Sweeps: many configurations are trained with several seeds, ranked by validation, and the best one is tested."""

from clipret.sweeps.stage import resume_sweep, sweep

__all__ = ["resume_sweep", "sweep"]
