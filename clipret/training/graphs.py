"""Steps on a GPU as CUDA graphs: one launch instead of about fifty, whose overhead dominates small batches."""

from collections.abc import Callable, Sequence

import torch

from clipret.config import TrainConfig
from clipret.losses import load_loss
from clipret.training.stack import Stack

# Larger batches are computed in blocks, and take so long that the launch overhead does not matter.
_LARGEST_BATCH = 4096
_WARM_UP = 3

Replay = Callable[[], None]


def can_be_captured(config: TrainConfig) -> bool:
    """Whether every step consists of the same operations on the same shapes, small enough for a graph to help."""
    one_shape = config.captions_per_step == "one" and config.batch_size * (1 + 2 * config.hard_negatives)
    return bool(one_shape) and one_shape <= _LARGEST_BATCH and load_loss(config.loss).capturable(vars(config))


class GraphedSteps:
    """The step of a stack with its inputs in fixed buffers, captured once for each batch shape and then replayed."""

    def __init__(self, stack: Stack, *, capture: Callable[[Callable[[], None], Stack], Replay]):
        """capture: takes a function that changes the stack in place; returns a function that replays it."""
        self._stack, self._capture = stack, capture
        self._captured = {}

    def __call__(
        self,
        features: dict[str, torch.Tensor],
        *,
        mask: torch.Tensor,
        rates: Sequence[float],
        margins: torch.Tensor | None,
    ) -> torch.Tensor:
        """As Stack.step, with the whole mask (S or 1, B_t, B)."""
        device = mask.device
        inputs = {**features, "mask": mask, "rates": torch.tensor(rates, device=device)}
        if margins is not None:
            inputs["margins"] = margins
        key = tuple((name, tuple(values.shape)) for name, values in inputs.items())
        if key not in self._captured:
            self._captured[key] = self._prepare(inputs)
        places, losses, replay = self._captured[key]
        for name, values in inputs.items():
            places[name].copy_(values, non_blocking=True)
        replay()
        return losses.clone()

    def _prepare(self, inputs: dict[str, torch.Tensor]) -> tuple[dict[str, torch.Tensor], torch.Tensor, Replay]:
        places = {name: values.clone() for name, values in inputs.items()}
        losses = torch.zeros(len(self._stack), device=places["mask"].device)
        features = {side: places[side] for side in ("image", "text")}

        def step() -> None:
            before = self._stack.step(
                features,
                matching=lambda rows: places["mask"][:, rows],
                rates=places["rates"].unbind(),
                margins=places.get("margins"),
            )
            losses.copy_(before)

        return places, losses, self._capture(step, self._stack)


def capture_cuda(step: Callable[[], None], stack: Stack) -> Replay:
    """Capture the step as a CUDA graph. Runs it a few times to warm up, then restores the stack."""
    before = {name: values.clone() for name, values in stack.arrays.items()}
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(_WARM_UP):
            step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    for name, values in stack.arrays.items():
        values.copy_(before[name])
    return graph.replay
