"""All that eval shows: the metrics, the curve of wise-ft, and another scoring."""

from clipret.reporting.curve import curve_sheets, without_curve
from clipret.reporting.metrics import metrics_sheets
from clipret.reporting.scoring import scoring_sheets
from clipret.reporting.sheets import Sheet


def evaluation_sheets(report: dict, *, names: tuple[str, ...]) -> tuple[Sheet, ...]:
    """metrics.json as tables; names: of the metrics that are shown."""
    return (
        metrics_sheets(without_curve(report), names=names) + curve_sheets(report) + scoring_sheets(report, names=names)
    )
