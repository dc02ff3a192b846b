"""The loss of a batch whose similarities are too many to be held: in blocks of captions.

Shape suffixes: S runs, B_t captions and B_i images of a batch, E embedding width.
"""

import importlib
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import closing
from types import ModuleType
from typing import Any, TypeVar

import torch

from clipret.losses.values import Loss
from clipret.machine.devices import one_thread_each
from clipret.machine.products import Products
from clipret.training.pull import Pull

Matching = Callable[[slice], torch.Tensor]
Result = TypeVar("Result")

# Similarities that take more than this are computed in blocks, ...
_MOST_BYTES = 256 << 20
# ... each of as many captions as fit in this: a block that stays in the processor's cache goes through the loss's dozen
# operations several times as fast. About four matrices of that size exist at a time, for each thread.
_BLOCK_BYTES = 24 << 20
# Similarities of blocks that are kept from one pass over them to the next; others are computed again.
_KEPT_BYTES = 256 << 20


def captions_at_once(texts: torch.Tensor, images: torch.Tensor) -> int:
    """The most captions of a batch whose similarities are held at once; texts (S, E, B_t), images (S, E, B_i)."""
    return max(1, _MOST_BYTES // _row_bytes(texts, images))


def _row_bytes(texts: torch.Tensor, images: torch.Tensor) -> int:
    return 4 * len(texts) * images.shape[2]


class Blocks:
    """A batch in blocks, each of which is in the share of the loss that its rows of the similarities have.

    A loss with a compiled form has its blocks computed side by side on a CPU, each by a thread of its own: nothing
    depends on their number.
    """

    def __init__(
        self,
        texts: torch.Tensor,
        images: torch.Tensor,
        *,
        matching: Matching,
        loss: Loss,
        parameters: dict[str, Any],
        products: Products,
    ):
        """texts (S, E, B_t) and images (S, E, B_i) embeddings; matching as of an Objective; the loss's parameters."""
        self._texts, self._images, self._rows = texts, images, texts.transpose(1, 2).contiguous()
        self._matching, self._loss, self._parameters, self._products = matching, loss, parameters, products
        self._compiled = _compiled(loss, texts)
        count, row_bytes = texts.shape[2], _row_bytes(texts, images)
        size = max(1, min(captions_at_once(texts, images), _BLOCK_BYTES // row_bytes))
        self._spans = [slice(start, min(start + size, count)) for start in range(0, count, size)]
        self._kept, self._most_kept = {}, _KEPT_BYTES // (size * row_bytes)

    def pull(self) -> Pull:
        """The loss and its gradients; those of the loss's parameters are in `learned`."""
        survey = self._compiled_survey() if self._compiled else self._survey()
        # Else the threads would stay for as long as an interruption is kept, as a notebook keeps the last one.
        with closing(self._each(lambda number: self._part(number, survey))) as parts:
            return _joined(parts)

    def _each(self, work: Callable[[int], Result]) -> Iterator[Result]:
        """work(number) of each block, in their order."""
        numbers = range(len(self._spans))
        threads = torch.get_num_threads() if self._compiled else 1
        if threads == 1:
            yield from map(work, numbers)
            return
        with one_thread_each(threads) as pool:
            # No more than are worked on, and one for each thread to go on with.
            begun = deque()
            for number in numbers:
                begun.append(pool.submit(work, number))
                if len(begun) == 2 * threads:
                    yield begun.popleft().result()
            while begun:
                yield begun.popleft().result()

    def _similarities(self, number: int, *, keep: bool = False) -> torch.Tensor:
        """(S, rows, B_i) of a block, the same to the bit every time; keep: for another pass, if there is room."""
        similarities = self._kept.get(number)
        if similarities is None:
            similarities = self._products(self._rows[:, self._spans[number]], self._images)
        if keep and number < self._most_kept:
            self._kept[number] = similarities
        else:
            self._kept.pop(number, None)
        return similarities

    def _surveyed(self, number: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Similarities and mask of a block for a pass over it."""
        span = self._spans[number]
        if self._loss.survey_of_mask:
            # Only the shape counts: the product is not worth its time.
            shape = len(self._texts), span.stop - span.start, self._images.shape[2]
            return self._images.new_zeros(1).expand(shape), self._matching(span)
        return self._similarities(number, keep=True), self._matching(span)

    def _survey(self) -> Any:
        survey = None
        for take in self._loss.passes:
            for number in range(len(self._spans)):
                survey = take(*self._surveyed(number), previous=survey, **self._parameters)
        return survey

    def _compiled_survey(self) -> Any:
        survey = None
        for part in self._each(lambda number: self._compiled.survey(*self._surveyed(number), **self._parameters)):
            survey = part if survey is None else self._compiled.joined(survey, part)
        return survey

    def _part(self, number: int, survey: Any) -> Pull:
        """The share of a block in the loss."""
        span = self._spans[number]
        similarities, mask = self._similarities(number), self._matching(span)
        if self._compiled:
            value, gradient, *along, learned = self._compiled.function(
                similarities, mask, first=span.start, survey=survey, **self._parameters
            )
        else:
            value, gradient, learned = self._loss.function(similarities, mask, survey=survey, **self._parameters)
            weighted = similarities.mul_(gradient)
            along = weighted.sum(2), weighted.sum(1)
        embeddings = self._texts[:, :, span].contiguous(), self._images
        return Pull.of(
            gradient, value=value, along=along, embeddings=embeddings, learned=learned, products=self._products
        )


def _compiled(loss: Loss, texts: torch.Tensor) -> ModuleType | None:
    """What computes the blocks of a batch in fewer passes than torch, where there is such a thing."""
    if not loss.compiled or texts.device.type != "cpu" or texts.dtype != torch.float32:
        return None
    return importlib.import_module(loss.compiled)


def _joined(parts: Iterator[Pull]) -> Pull:
    """Of blocks of rows, one after the other: few blocks' gradients of the images exist at a time."""
    first = next(parts)
    value, images, along_images, learned = first.value, first.images, first.along_images, dict(first.learned)
    texts, along_texts = [first.texts], [first.along_texts]
    for part in parts:
        value = value + part.value
        images += part.images
        along_images += part.along_images
        learned = {name: values + part.learned[name] for name, values in learned.items()}
        texts.append(part.texts)
        along_texts.append(part.along_texts)
    return Pull(value, torch.cat(texts, dim=2), images, torch.cat(along_texts, dim=2), along_images, learned)
