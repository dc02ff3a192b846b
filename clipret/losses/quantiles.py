"""Quantiles of the negatives' similarities. Shapes are those of clipret.losses."""

import numpy as np
import torch

from clipret.losses.values import APART, numbers, total


def negative_quantile(
    similarities: torch.Tensor, positives: torch.Tensor, *, quantile: float | torch.Tensor
) -> torch.Tensor:
    """The q-quantile of each run's negatives, (...,): of n in rising order the one at floor((n - 1) q), from 0.

    That is numpy's quantile with method="lower". A run without negatives has 0.

    quantile  q in [0, 1], a number or (...,)
    """
    mask = numbers(positives, similarities)
    # Positives come before all negatives in rising order.
    pushed = similarities.sub(mask, alpha=APART).flatten(-2)
    count = total(mask).double().expand(pushed.shape[:-1])
    negatives = pushed.shape[-1] - count
    ranks = (count + ((negatives - 1) * quantile).floor()).long().clamp(0, pushed.shape[-1] - 1)
    select = _select_on_cpu if pushed.device.type == "cpu" else _select
    return torch.where(negatives > 0, select(pushed, ranks), 0)


def _select(values: torch.Tensor, ranks: torch.Tensor) -> torch.Tensor:
    """values (..., N), ranks (...,) -> those of each row that come at these ranks, (...,)."""
    return values.sort(-1).values.gather(-1, ranks[..., None])[..., 0]


def _select_on_cpu(values: torch.Tensor, ranks: torch.Tensor) -> torch.Tensor:
    """As _select; torch's sort on a CPU takes a hundred times as long as numpy's partition."""
    rows = values.reshape(-1, values.shape[-1]).numpy()
    selected = [np.partition(row, rank)[rank] for row, rank in zip(rows, ranks.flatten().tolist(), strict=True)]
    return torch.from_numpy(np.array(selected, dtype=rows.dtype)).reshape(ranks.shape)
