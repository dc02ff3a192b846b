"""The epochs of a stack of runs."""

import contextlib
import time

import numpy as np
import torch

from clipret.errors import HeadError, RunError, TrainingError
from clipret.machine.products import Products
from clipret.training.autograd import AutogradRun
from clipret.training.batches import Batch, plan_epoch, steps_per_epoch
from clipret.training.data import Data
from clipret.training.graphs import GraphedSteps, can_be_captured, capture_cuda
from clipret.training.mining import find_companions
from clipret.training.record import Record
from clipret.training.schedule import learning_rate
from clipret.training.stack import Stack, State, head_tensors, takes_autograd

_REPORT_EVERY_SECONDS = 1.0


class Loop:
    """Trains runs of equal shape, all at the same epoch, together until each is done."""

    def __init__(self, records: list[Record], states: list[State], *, data: Data, report):
        """report: called with the number of epochs finished since the last call, over all runs, and details to show."""
        config = records[0].config
        self._data, self._report = data, report
        self._records = records
        products = Products(data.device, precision=config.precision)
        if takes_autograd(config):
            (state,) = states
            self._use(AutogradRun(config, state, codes=records[0].codes, cache=data.cache, device=data.device))
        else:
            configs = [record.config for record in records]
            self._use(Stack(configs, states, products=products, device=data.device))
        self._per_epoch = steps_per_epoch(data.pairs, config)
        self._reported = time.monotonic()
        self._within_epoch = False

    def _use(self, stack: Stack | AutogradRun) -> None:
        self._stack = stack
        graphed = isinstance(stack, Stack) and self._data.device == "cuda" and can_be_captured(stack.configs[0])
        self._graphed = GraphedSteps(stack, capture=capture_cuda) if graphed else None

    def run(self) -> None:
        """Train. Finished epochs are saved however this ends, also by an exception."""
        try:
            if self._records[0].epoch < 0:
                self._measure(losses=None)
            while self._drop():
                try:
                    self._epoch(self._records[0].epoch + 1)
                except (HeadError, TrainingError) as error:
                    # Of a sweep the other runs go on.
                    if not self._records[0].codes:
                        raise
                    self._records[0].error = f"{str(error).removesuffix('.')}; the run keeps the head it had before."
        except BaseException:
            for number, record in enumerate(self._records):
                record.end_tracking()
                # The original exception may be a full disk, so saving may fail too.
                with contextlib.suppress(RunError):
                    record.save(None if self._within_epoch or record.error else self._stack.state(number), now=True)
            raise

    def _epoch(self, epoch: int) -> None:
        configs, before = self._stack.configs, (epoch - 1) * self._per_epoch
        batches = plan_epoch(self._data.pairs, configs, epoch=epoch, companions=self._companions(epoch))
        if configs[0].steps is not None:
            batches = batches[: configs[0].steps - before]
        totals = [total_steps(config, self._per_epoch) for config in configs]
        # Allocated once: many small tensors that stay alive would fragment the memory that steps reuse.
        losses = torch.empty(len(batches), len(configs), device=self._data.device)
        self._within_epoch = True
        for number, features in enumerate(self._data.features.batches([batch.places for batch in batches])):
            step = before + number
            rates = [self._rate(config, step=step, steps=total) for config, total in zip(configs, totals, strict=True)]
            done = [step / total for total in totals]
            losses[number] = self._step(batches[number], features, rates=rates, done=done)
            self._tell(epoch, number + 1, of=len(batches))
        self._note_batches(batches)
        self._measure(losses=losses.cpu().numpy(), before=before)

    def _step(self, batch: Batch, features: dict, *, rates: list[float], done: list[float]) -> torch.Tensor:
        def matching(rows: slice) -> torch.Tensor:
            return batch.matching(rows, device=self._data.device)

        margins = self._stack.margins(done)
        if self._graphed is not None:
            return self._graphed(features, mask=matching(slice(None)), rates=rates, margins=margins)
        return self._stack.step(features, matching=matching, rates=rates, margins=margins)

    def _rate(self, config, *, step: int, steps: int) -> float:
        return learning_rate(config, step=step, steps=steps, per_epoch=self._per_epoch)

    def _companions(self, epoch: int) -> list[dict] | None:
        count = self._stack.configs[0].hard_negatives
        if not count:
            return None
        pairs, companions = self._data.pairs, []
        for number, record in enumerate(self._records):
            head = record.head(head_tensors(self._stack.state(number)))
            drawn = pairs.draw(record.config.seed, epoch)
            companions.append(find_companions(head, self._data.features, pairs, count=count, drawn=drawn))
        return companions

    def _measure(self, *, losses: np.ndarray | None, before: int = 0) -> None:
        """Record the finished epoch of every run; losses (steps, S), None before the first epoch."""
        detail = {}
        for number, record in enumerate(self._records):
            state, config = self._stack.state(number), record.config
            if losses is not None and not np.isfinite(losses[:, number]).all():
                first = int(np.flatnonzero(~np.isfinite(losses[:, number]))[0])
                self._fail(record, f"the loss is {losses[first, number]}", step=before + first)
                continue
            measured = None
            if self._data.validation is not None:
                head = record.head(head_tensors(state))
                try:
                    measured = self._data.validation.measure(head, device=self._data.device)
                except HeadError:
                    # Of a head as it starts the features are to blame, and all runs have them; the code of one of
                    # the user's own can fail in other ways.
                    if losses is None or "head" in record.codes:
                        raise
                    self._fail(record, "the head overflows float32", step=before + len(losses) - 1)
                    continue
            loss = rate = None
            if losses is not None:
                loss = float(losses[:, number].mean())
                last = before + len(losses) - 1
                rate = self._rate(config, step=last, steps=total_steps(config, self._per_epoch))
            score = record.add(state, loss=loss, rate=rate, measured=measured)
            record.save(state)
            detail = {"loss": loss, "val rsum": score}
        self._within_epoch = False
        # Last, as the callback may raise to interrupt the training.
        figures = {name: value for name, value in detail.items() if value is not None}
        self._report(0 if losses is None else len(self._records), figures)

    def _fail(self, record: Record, what: str, *, step: int) -> None:
        rate = self._rate(record.config, step=step, steps=total_steps(record.config, self._per_epoch))
        record.error = (
            f"{what} at step {step + 1} (epoch {record.epoch + 1}), at a learning rate of "
            f"{rate:g}; the run keeps the head it had before. Try a lower --lr, a --warmup, or --clip-norm 1."
        )

    def _drop(self) -> bool:
        """Remove the runs that are done; returns whether any is left."""
        left = []
        for number, record in enumerate(self._records):
            done = record.epoch >= total_epochs(record.config, self._per_epoch)
            if done or record.exhausted or record.error:
                if record.exhausted and not done:
                    record.remarks.append(
                        f"stopped early after epoch {record.epoch}: no better validation rsum in "
                        f"{record.config.patience} epochs"
                    )
                record.save(None, now=True)
                if not done:
                    self._report(total_epochs(record.config, self._per_epoch) - record.epoch, {})
            else:
                left.append(number)
        if left and len(left) < len(self._records):
            self._use(self._stack.keep(left))
        self._records = [self._records[number] for number in left]
        return bool(left)

    def _tell(self, epoch: int, step: int, *, of: int) -> None:
        """Report progress within a long epoch."""
        now = time.monotonic()
        if now - self._reported >= _REPORT_EVERY_SECONDS:
            self._reported = now
            self._report(0, {"step": f"{step:,}/{of:,} of epoch {epoch}"})

    def _note_batches(self, batches: list[Batch]) -> None:
        lone = sum(batch.without_negatives for batch in batches)
        if lone:
            remark = (
                "there are batches without negatives (of one image, or of captions that are all the same text): their "
                "matching pairs are pulled together and nothing pushes others apart; use a larger --batch-size"
            )
            for record in self._records:
                if remark not in record.remarks:
                    record.remarks.append(remark)


def total_epochs(config, per_epoch: int) -> int:
    """Total epochs of a training; `steps` may cut the last one short."""
    return config.epochs if config.steps is None else -(-config.steps // per_epoch)


def total_steps(config, per_epoch: int) -> int:
    """Total optimiser steps of a training."""
    return config.epochs * per_epoch if config.steps is None else config.steps
