"""Which rows are computed together, so that a row has the same bits whatever it is computed with.

The kernels that multiply matrices have another order of additions for a few rows than for many: a row computed alone
differs in its last bits from the same row among others. So do the rows that are left over where a few are shared out
among threads in fours or eights. Attention over padding has another order too, so texts of other lengths are not
computed together.
"""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch

from clipret.machine.token_rows import TokenRows

# Few rows are computed in multiples of this.
TOGETHER = 8


def among_others(function: Callable, rows: torch.Tensor | TokenRows) -> torch.Tensor:
    """function(rows), (B, ...) -> (B, E), with the bits that each row has among any others on as many threads.

    function  of rows by themselves: none changes the result of another
    """
    missing = -len(rows) % TOGETHER
    if not missing or len(rows) >= TOGETHER * torch.get_num_threads():
        return function(rows)
    # The first row again, until there are enough.
    places = torch.arange(len(rows) + missing, device=rows.device)
    return function(rows[places.where(places < len(rows), 0)])[: len(rows)]


def batches_of_a_length(lengths: Sequence[int], *, batch_size: int) -> Iterator[np.ndarray]:
    """Places of texts of these lengths, those of a batch as long, at most batch_size; the shortest first."""
    # Stable, so that texts of equal length keep their order.
    order = np.argsort(lengths, kind="stable")
    of_a_length = np.split(order, np.flatnonzero(np.diff(np.asarray(lengths)[order])) + 1)
    for places in of_a_length:
        for start in range(0, len(places), batch_size):
            yield places[start : start + batch_size]
