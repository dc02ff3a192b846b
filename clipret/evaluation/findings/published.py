"""Published rows that stand beside the figures of a protocol: those of the same model, measured in the same way."""

from clipret.cache import FeatureCache
from clipret.evaluation.reproduction.matching import recognise
from clipret.evaluation.reproduction.published import describe_row, published_rows


def published_beside(cache: FeatureCache, *, protocol: str) -> list[dict]:
    """Rows of the cache's model by a protocol, as published.describe_row has them; none of a model that has none.

    protocol  its name

    Whether a cache's prompt and cleaning are those of a row is for `clipret reproduce` to say.
    """
    recognised = recognise(cache)
    if recognised is None:
        return []
    rows = (row for row in published_rows() if row.model == recognised.model.name and row.measured_by == protocol)
    return [describe_row(row) for row in rows]
