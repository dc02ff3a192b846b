"""The scorings as their papers have them, on whole matrices in float64 and by plain loops; and naive ranks."""

import numpy as np

from clipret.retrieval.ties import TIE_TOLERANCE


def naive_nnn(scores, bank, *, alpha, k):
    """scores (Q, G) of queries and gallery, bank (B, G) of reference queries and gallery."""
    corrected = scores.copy()
    for item in range(scores.shape[1]):
        nearest = sorted(bank[:, item], reverse=True)[:k]
        corrected[:, item] -= alpha * sum(nearest) / len(nearest)
    return corrected


def naive_csls(scores, bank, *, k, query_bank):
    """query_bank: (Q, B) of queries and a bank of gallery items. Halved, so that ties are those of cosines."""
    corrected = np.empty_like(scores)
    for query in range(scores.shape[0]):
        near_query = sorted(query_bank[query], reverse=True)[:k]
        for item in range(scores.shape[1]):
            near_item = sorted(bank[:, item], reverse=True)[:k]
            both = sum(near_query) / len(near_query) + sum(near_item) / len(near_item)
            corrected[query, item] = (2 * scores[query, item] - both) / 2
    return corrected


def naive_dis(scores, bank, *, beta):
    """The logarithm, by beta, of the inverted softmax, for the queries that it is for; the others' cosines."""
    activated = set()
    for row in bank:
        activated |= {item for item in range(len(row)) if row[item] >= max(row) - TIE_TOLERANCE}
    corrected = scores.copy()
    for query, row in enumerate(scores):
        best = {item for item in range(len(row)) if row[item] >= max(row) - TIE_TOLERANCE}
        if best & activated:
            corrected[query] = np.log(np.exp(beta * row) / np.exp(beta * bank).sum(axis=0)) / beta
    return corrected


def naive_ranks(scores, positives):
    """Ranks of matching items, query by query: other items that are not clearly below one come before it."""
    ranks = []
    for row, matching in zip(scores, positives, strict=True):
        others = [item for item in range(len(row)) if item not in matching]
        ahead = sorted(sum(not row[item] < row[own] - TIE_TOLERANCE for item in others) for own in matching)
        ranks += [count + place for place, count in enumerate(ahead, start=1)]
    return np.array(ranks, dtype=np.int64)
