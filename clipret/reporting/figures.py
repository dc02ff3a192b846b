"""How a metric's figures are written, in every table."""

from math import isinf

from clipret.metrics import RSUM, heading_of, metric_of, scale_of
from clipret.reporting.sheets import Cell


def is_unbounded(metric: str) -> bool:
    """Whether a metric has no largest mean: then neither the mean nor a gain has an interval."""
    return isinf(metric_of(metric).limit)


def unit_of(metric: str) -> str:
    """What its figures are shown in: percent, or nothing for sums and ranks."""
    return "percent" if scale_of(metric) == 100 else ""


def unbounded_notes(metrics: list[str] | tuple[str, ...]) -> list[str]:
    """Why means of these metrics that have no largest value are without an interval, a line each."""
    means = [name for name in metrics if is_unbounded(name) and not metric_of(name).is_median]
    return [f"a {heading_of(name)} has no interval: one image can move it by any amount" for name in means]


def figure(metric: str, value: float, *, sign: bool = False, interval: str = "") -> Cell:
    """A figure of the metric.

    sign  whether a plus is shown: of differences
    """
    return Cell(_scaled(metric, value), f"{'+' if sign else ''}.{3 if metric == RSUM else 1}f", interval)


def limits(metric: str, interval: list[float] | None, *, digits: int) -> list[str]:
    """The ends of an interval in the metric's unit; none of none. No sign where nothing but zeros is left."""
    return [f"{round(_scaled(metric, end), digits) + 0.0:.{digits}f}" for end in interval or ()]


def _scaled(metric: str, value: float) -> float:
    return scale_of(metric) * value
