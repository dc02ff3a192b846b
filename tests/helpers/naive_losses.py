"""The losses by their definitions, one pair at a time in plain Python; autograd derives them."""

import torch


def _by_kind(similarities, positives):
    """[(row, column)] of the positives and of the negatives."""
    places = [(t, i) for t in range(similarities.shape[0]) for i in range(similarities.shape[1])]
    return [p for p in places if positives[p]], [p for p in places if not positives[p]]


def _hinge(x):
    return x if x > 0 else 0 * x


def margin(similarities, positives, *, margin, reduction):
    ones, others = _by_kind(similarities, positives)
    near = [0.5 * (1 - similarities[p]) for p in ones]
    far = [0.5 * _hinge(similarities[p] - margin) for p in others]
    if reduction == "mean":
        return sum(near + far) / len(near + far)
    return sum(near) / max(1, len(near)) + sum(far) / max(1, len(far))


def _one_way(logits, positives):
    """Mean over rows of the cross-entropy with a target that is uniform over the row's positives."""
    total = 0 * logits.sum()
    for row, matches in zip(logits, positives, strict=True):
        found = [column for column in range(len(row)) if matches[column]]
        everything = torch.logsumexp(row, dim=0)
        for column in found:
            total = total + (everything - row[column]) / len(found)
    return total / len(logits)


def infonce(similarities, positives, *, scale):
    logits = similarities * scale
    return 0.5 * (_one_way(logits, positives) + _one_way(logits.T, positives.T))


def triplet(similarities, positives, *, margin, violation):
    ones, others = _by_kind(similarities, positives)
    total = 0 * similarities.sum()
    for t, i in ones:
        for negatives in ([p for p in others if p[0] == t], [p for p in others if p[1] == i]):
            hinges = [_hinge(margin - similarities[t, i] + similarities[p]) for p in negatives]
            if hinges and violation == "max":
                # amax shares its gradient among equal maxima.
                hardest = torch.stack([similarities[p] for p in negatives]).amax()
                total = total + _hinge(margin - similarities[t, i] + hardest)
            elif hinges:
                total = total + sum(hinges)
    return total / max(1, len(ones))


def sigmoid(similarities, positives, *, scale, bias):
    total = 0
    for t in range(similarities.shape[0]):
        for i in range(similarities.shape[1]):
            sign = 1 if positives[t, i] else -1
            x = sign * (scale * similarities[t, i] + bias)
            # -log sigmoid(x)
            total = total + torch.logaddexp(torch.zeros_like(x), -x)
    return total / similarities.shape[1]


NAIVE = {"margin": margin, "infonce": infonce, "triplet": triplet, "sigmoid": sigmoid}
