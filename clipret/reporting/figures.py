"""How a metric's figures are written, in every table."""

from clipret.config.metric_names import LOWER_IS_BETTER, RSUM
from clipret.reporting.sheets import Cell


def is_rank(metric: str) -> bool:
    """Whether a metric is a rank, of which less is better."""
    return metric in LOWER_IS_BETTER


def unit_of(metric: str) -> str:
    """What its figures are shown in: percent, or nothing for sums and ranks."""
    return "" if metric == RSUM or is_rank(metric) else "percent"


def heading_of(metric: str) -> str:
    """Its name for people."""
    return metric.replace("_rank", " rank")


def figure(metric: str, value: float, *, sign: bool = False, interval: str = "") -> Cell:
    """A figure of the metric.

    sign  whether a plus is shown: of differences
    """
    return Cell(_scaled(metric, value), f"{'+' if sign else ''}.{3 if metric == RSUM else 1}f", interval)


def limits(metric: str, interval: list[float] | None, *, digits: int) -> list[str]:
    """The ends of an interval in the metric's unit; none of none. No sign where nothing but zeros is left."""
    return [f"{round(_scaled(metric, end), digits) + 0.0:.{digits}f}" for end in interval or ()]


def _scaled(metric: str, value: float) -> float:
    return 100 * value if unit_of(metric) == "percent" else value
