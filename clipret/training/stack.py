"""Runs of equal shape, trained together: their weights, optimiser and training step.

Shape suffixes: S runs.
"""

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import torch

from clipret.config import TrainConfig
from clipret.config.checks import is_in_file
from clipret.config.settings import settings_of
from clipret.heads import HEADS, load_head_kind
from clipret.heads.base import SIDES, Gradients, Tower, learning_names
from clipret.machine.products import Products
from clipret.machine.torch_private import Coefficients, choose_adamw
from clipret.training.neighbours import keep_neighbours
from clipret.training.objective import Matching, Objective, Pull, bound_scalars, fixed_scalars, learned_scalars
from clipret.training.starting import head_settings, learning_sides

State = dict[str, torch.Tensor]
_SCALAR = "scalar/"

# Settings that the AdamW update does not use. Runs that differ only in these share one fused call.
_PACELESS = (
    *("name", "runs_dir", "log", "keep", "patience", "seed", "init", "ridge"),
    *("margin", "temperature", "keep_neighbours", "clip_norm", "ema"),
)


def _in_common(config: TrainConfig, name: str) -> Any:
    """The part of a setting that must be equal among runs of a stack: all of it, unless its field says otherwise."""
    rules = settings_of(type(config))
    may_differ = rules[name].may_differ if name in rules else False
    if may_differ is True:
        return None
    return may_differ(getattr(config, name)) if may_differ else getattr(config, name)


def shape_of(config: TrainConfig) -> tuple:
    """A key that is equal for runs that can be trained together."""
    # With all captions of each image, their number per batch varies. torch's gradients take one run at a time.
    alone = config.captions_per_step == "all" or takes_autograd(config)
    return (*(_in_common(config, field.name) for field in fields(config)), config if alone else None)


def takes_autograd(config: TrainConfig) -> bool:
    """Whether the gradients are torch's: of a loss or a head of the user's own, and of heads that say so."""
    return is_in_file(config.loss) or is_in_file(config.head) or HEADS[config.head].alone


def _pace_of(config: TrainConfig) -> tuple:
    """A key that is equal for runs of a stack that share one fused AdamW call."""
    return tuple(getattr(config, field.name) for field in fields(config) if field.name not in _PACELESS)


def first_state(config: TrainConfig, tensors: State, *, logit_scale: float) -> State:
    """A run's state before its first step, from its head's tensors as returned by initial_tensors."""
    state = {f"weight/{name}": _turned(tensor).clone() for name, tensor in tensors.items()}
    scalars = learned_scalars(config, logit_scale=logit_scale)
    state |= {f"scalar/{name}": torch.tensor(value) for name, value in scalars.items()}
    kind, settings = load_head_kind(config.head), head_settings(config)
    names = learning_names(kind, sides=learning_sides(config), tensors=tensors, settings=settings)
    for name in [*(f"weight/{name}" for name in names), *(f"scalar/{name}" for name in scalars)]:
        state |= {f"{kind}/{name}": torch.zeros_like(state[name]) for kind in ("first", "second")}
        if config.ema is not None and name.startswith("weight/"):
            state[f"average/{name}"] = state[name].clone()
    state["count"] = torch.tensor(0.0)
    return state


def state_bytes(state: State) -> int:
    """Bytes of a run's state and gradients."""
    return sum(tensor.nbytes * (2 if name.startswith("first/") else 1) for name, tensor in state.items())


def head_tensors(state: State) -> State:
    """The head's tensors as build_head takes them, sharing memory; their moving averages if the run has them."""
    tensors = {}
    for name in state:
        kind, _, short = name.partition("/")
        if kind in ("weight", "plain"):
            tensor = state.get(f"average/{name}", state[name])
            tensors[short] = _turned(tensor) if kind == "weight" else tensor
    return tensors


def loss_scalars(config: TrainConfig, state: State) -> dict[str, float]:
    """The scalars of a run's loss as they are now: learned (no averages, with or without an EMA), or fixed."""
    learned = {name.removeprefix(_SCALAR): float(state[name]) for name in state if name.startswith(_SCALAR)}
    return learned | fixed_scalars(config)


class Stack:
    """The runs' weights, (S, ...) each, and their optimiser. Weights are float32 and are updated in place."""

    def __init__(self, configs: list[TrainConfig], states: list[State], *, products: Products, device: str):
        """configs with equal shape_of, and the state of each run, all after the same number of steps."""
        self.configs, self._products, self._device = configs, products, device
        self._adamw = choose_adamw(device)
        self._all = {name: torch.stack([state[name].to(device) for state in states]) for name in states[0]}
        self._learning = [name.removeprefix("first/") for name in self._all if name.startswith("first/")]
        self._objective = Objective(configs, products=products, device=device)
        weights = {name[7:]: values for name, values in self._all.items() if name.startswith("weight/")}
        keeping = [config.keep_neighbours for config in configs]
        self._keeping = torch.tensor(keeping, device=device) if any(keeping) else None
        self._images, self._texts = (self._tower(weights, side=side) for side in SIDES)
        self._scalars = {name[7:]: values for name, values in self._all.items() if name.startswith("scalar/")}
        self._prepare()

    def __len__(self) -> int:
        return len(self.configs)

    @property
    def arrays(self) -> State:
        """All runs' states, (S, ...) each."""
        return self._all

    def state(self, run: int) -> State:
        """Views of one run's state."""
        return {name: values[run] for name, values in self._all.items()}

    def keep(self, runs: list[int]) -> "Stack":
        """A stack of these runs only."""
        states = [self.state(run) for run in runs]
        configs = [self.configs[run] for run in runs]
        return Stack(configs, states, products=self._products, device=self._device)

    def margins(self, progress: list[float]) -> torch.Tensor | None:
        """As Objective.margins; progress from 0 to 1."""
        return self._objective.margins(progress)

    def step(
        self,
        features: dict[str, torch.Tensor],
        *,
        matching: Matching,
        rates: Sequence[float | torch.Tensor],
        margins: torch.Tensor | None,
    ) -> torch.Tensor:
        """Update every run with one batch; returns the losses (S,) before the update.

        features  image (S, B, D_i) and text (S, B_t, D_t) float32
        matching  rows of captions -> which images they match, (S or 1, rows, B) bool, or float32 of 1 and 0
        rates     learning rate of each run
        margins   as returned by margins()
        """
        images, texts = self._images.forward(features["image"]), self._texts.forward(features["text"])
        pull = self._objective.pull(texts, images, matching=matching, margins=margins, learned=self._scalars)
        if self._keeping is not None:
            pull = self._with_neighbours(pull, images=images, texts=texts, features=features)
        gradients = {
            **self._images.backward(pull.images, along=pull.along_images),
            **self._texts.backward(pull.texts, along=pull.along_texts),
        }
        gradients = {f"weight/{name}": values for name, values in gradients.items()}
        gradients |= {f"scalar/{name}": values.unbind() for name, values in pull.learned.items()}
        self._update(gradients, rates=rates)
        return pull.value

    def _with_neighbours(self, pull: Pull, *, images: torch.Tensor, texts: torch.Tensor, features: State) -> Pull:
        """The loss with the term that keeps neighbours, of the sides that learn."""
        settings = {"weights": self._keeping, "products": self._products}
        for side in learning_sides(self.configs[0]):
            kept = keep_neighbours(images if side == "image" else texts, features[side], **settings)
            pull = pull.with_side(side, value=kept.value, gradient=kept.gradient, along=kept.along)
        return pull

    def _tower(self, weights: State, *, side: str) -> Tower:
        config = self.configs[0]
        learns, settings = side in learning_sides(config), head_settings(config)
        kind = load_head_kind(config.head)
        return kind.tower(weights, side=side, learns=learns, settings=settings, products=self._products)

    def _prepare(self) -> None:
        """Build the optimiser's lists of views once: creating a view costs as much as a small operation."""
        weights = [name for name in self._learning if name.startswith("weight/")]
        scalars = [name for name in self._learning if name.startswith("scalar/")]
        alike = {}
        for run, config in enumerate(self.configs):
            alike.setdefault(_pace_of(config), []).append(run)
        self._groups = []
        for runs in alike.values():
            config = self.configs[runs[0]]
            for names, decay in ((weights, config.weight_decay), (scalars, 0.0)):
                places = [(run, name) for run in runs for name in names]
                if places:
                    kinds = ("", "first/", "second/")
                    lists = [[self._all[f"{kind}{name}"][run] for run, name in places] for kind in kinds]
                    counts = [self._all["count"][run] for run, _ in places]
                    coefficients = Coefficients(config.beta1, config.beta2, decay, config.eps)
                    self._groups.append((runs[0], coefficients, places, lists, counts))
        decays = [config.ema for config in self.configs]
        self._news = None if decays[0] is None else 1 - torch.tensor(decays, device=self._device)

    def _update(self, gradients: Gradients, *, rates: Sequence[float | torch.Tensor]) -> None:
        """AdamW (Loshchilov and Hutter 2019, algorithm 2), fused over runs of equal _pace_of; scalars do not decay."""
        self._all["count"] += 1
        if self.configs[0].clip_norm is not None:
            for run, config in enumerate(self.configs):
                _clip([values[run] for values in gradients.values()], norm=config.clip_norm)
        for run, coefficients, places, (values, first, second), counts in self._groups:
            self._adamw(
                values,
                [gradients[name][place] for place, name in places],
                moments=(first, second),
                counts=counts,
                lr=rates[run],
                coefficients=coefficients,
            )
        bound_scalars(self._scalars)
        if self._news is not None:
            for name in self._learning:
                if name.startswith("weight/"):
                    average, news = self._all[f"average/{name}"], self._news
                    average.lerp_(self._all[name], news.view(-1, *[1] * (average.dim() - 1)))


def _clip(gradients: list[torch.Tensor], *, norm: float) -> None:
    """Scale a run's gradients, in place, to a total L2 norm of at most `norm` (Pascanu et al. 2013)."""
    total = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
    torch._foreach_mul_(gradients, (norm / (total + 1e-6)).clamp(max=1))


def _turned(tensor: torch.Tensor) -> torch.Tensor:
    """The transpose of a matrix; training stores matrices transposed."""
    return tensor.t() if tensor.dim() == 2 else tensor
