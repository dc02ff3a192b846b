"""Training by torch's autograd and AdamW, one run at a time: of heads that ask for it, and of the user's own code.

The state of such a run is a dict of tensors like that of a run in a stack, but the head's tensors are not transposed
and have the prefix `plain/`. `steps/` counts the updates of each tensor, as torch skips tensors without a gradient.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from clipret.cache import FeatureCache
from clipret.config import TrainConfig
from clipret.config.checks import is_in_file
from clipret.config.training import in_use
from clipret.errors import HeadError, TrainingError, UsageError
from clipret.heads import load_head_kind
from clipret.heads.base import SIDES, Head, learning_names
from clipret.heads.own import Recipe
from clipret.machine.own_code import OwnCode, open_code
from clipret.machine.products import Products
from clipret.retrieval.baseline import baseline_projections
from clipret.retrieval.inputs import example_rows, require_inputs
from clipret.training.neighbours import keep_neighbours
from clipret.training.objective import Matching, Objective, bound_scalars, learned_scalars
from clipret.training.stack import State
from clipret.training.starting import build_head, head_settings, initial_tensors, inputs_of, learning_sides

# Settings that may be user-defined code.
OWN = ("loss", "head")
_PLAIN, _SCALAR = "plain/", "scalar/"
# Number of pairs that a loss and a head are tried on before a run's folder is made.
_TRIED = 3

Codes = dict[str, OwnCode]


def open_codes(config: TrainConfig, *, named: bool) -> Codes:
    """loss, head -> its code, for those that are user-defined; `named` as in own_code.open_code."""
    words = {what: getattr(config, what) for what in OWN}
    return {what: open_code(word, named=named) for what, word in words.items() if is_in_file(word)}


def describe_codes(configs: Iterable[TrainConfig], *, named: bool) -> dict[str, dict[str, str]]:
    """FILE.py:NAME -> path and sha256, for all user-defined code in these configs; `named` as in open_codes."""
    words = {word for config in configs for word in (config.loss, config.head) if is_in_file(word)}
    return {word: describe_code(open_code(word, named=named)) for word in sorted(words)}


def with_whole_paths(config: TrainConfig) -> TrainConfig:
    """The config with the user's own code named by absolute paths, which are right in every folder."""
    words = {what: getattr(config, what) for what in OWN}
    return replace(config, **{what: str(Path(word).absolute()) for what, word in words.items() if is_in_file(word)})


def copy_name(what: str) -> str:
    """The file name of the copy of the loss's or the head's code in a run's folder."""
    return f"own_{what}.py"


def describe_code(code: OwnCode) -> dict[str, str]:
    """The description of user-defined code in a record."""
    return {"path": str(code.path), "sha256": code.sha256}


def try_out(config: TrainConfig, codes: Codes, *, cache: FeatureCache) -> None:
    """Check the settings and run one step on a small batch of random features.

    Raises UsageError, HeadError or TrainingError, in one line that names the file and what was expected.
    """
    if config.precision != "fp32":
        raise UsageError(f"--precision is {config.precision}; a loss or a head of your own is trained in fp32.")
    if "head" in codes:
        for name, expected in (("train", "both"), ("init", "clip")):
            if getattr(config, name) != expected:
                raise UsageError(
                    f"--{name} is {getattr(config, name)}; that is for the built-in heads; leave --{name} out."
                )
    state = first_state(config, codes, cache=cache)
    if not any(name.startswith(f"first/{_PLAIN}") for name in state):
        raise TrainingError(f"{codes['head']} makes a head without parameters that require gradients; nothing learns.")
    trial = AutogradRun(config, state, codes=codes, cache=cache, device="cpu")
    generator = torch.Generator().manual_seed(config.seed)
    inputs = inputs_of(config)
    require_inputs(cache, inputs)
    rows = {side: example_rows(cache, side, kind=inputs[side], count=_TRIED, generator=generator) for side in SIDES}
    features = {side: values[None] if isinstance(values, torch.Tensor) else [values] for side, values in rows.items()}
    trial.step(
        features,
        matching=lambda rows: torch.eye(_TRIED, dtype=torch.bool)[None, rows],
        rates=[config.lr],
        margins=trial.margins([0.0]),
    )
    trial.state(0)


def build_run_head(config: TrainConfig, tensors: State, *, codes: Codes, cache: FeatureCache) -> Head:
    """The head of a run's tensors, built-in or user-defined, for evaluation."""
    if "head" in codes:
        head = Recipe(codes["head"], config.seed).make(baseline_projections(cache))
        head = head.to(next(iter(tensors.values())).device).filled(tensors).requires_grad_(False)
        with codes["head"].guarded(HeadError, f"{codes['head']}.eval"):
            return head.eval()
    return build_head(config, tensors)


def first_state(config: TrainConfig, codes: Codes, *, cache: FeatureCache) -> State:
    """A run's state before its first step."""
    if "head" in codes:
        head = Recipe(codes["head"], config.seed).make(baseline_projections(cache))
        tensors = head.tensors
        learning = [name for name, parameter in head.named_parameters() if parameter.requires_grad]
    else:
        tensors, kind = initial_tensors(config, cache), load_head_kind(config.head)
        learning = learning_names(kind, sides=learning_sides(config), tensors=tensors, settings=head_settings(config))
    state = {f"{_PLAIN}{name}": tensor.clone() for name, tensor in tensors.items()}
    if "loss" not in codes:
        scalars = learned_scalars(config, logit_scale=float(cache.projections["logit_scale"]))
        state |= {f"{_SCALAR}{name}": torch.tensor(value) for name, value in scalars.items()}
    for name in [*(f"{_PLAIN}{name}" for name in learning), *(name for name in state if name.startswith(_SCALAR))]:
        state |= {f"{kind}/{name}": torch.zeros_like(state[name]) for kind in ("first", "second")}
        state[f"steps/{name}"] = torch.tensor(0.0)
        if config.ema is not None and name.startswith(_PLAIN):
            state[f"average/{name}"] = state[name].clone()
    state["count"] = torch.tensor(0.0)
    return state


class AutogradRun:
    """A run, with the interface of a Stack of one."""

    def __init__(self, config: TrainConfig, state: State, *, codes: Codes, cache: FeatureCache, device: str):
        """state: as returned by first_state, or after any number of steps; it is copied."""
        self.configs, self._codes, self._device = [config], codes, device
        self._state = {name: values.to(device, copy=True) for name, values in state.items()}
        self._head = self._trainable(config, cache)
        self._objective = None if "loss" in codes else Objective([config], products=Products(device), device=device)
        self._loss = codes["loss"].load() if "loss" in codes else None
        # Sorted: a checkpoint has another order, and the norm of all gradients would add up in it.
        learning = sorted(name.removeprefix("first/") for name in self._state if name.startswith("first/"))
        self._learning = {name: self._variable(name) for name in learning}
        self._optimiser = self._make_optimiser(config)
        self._steps = int(self._state["count"])

    def __len__(self) -> int:
        return 1

    def state(self, run: int) -> State:
        """The run's state, sharing memory. Raises TrainingError when the head's code has changed what it learns."""
        if "head" in self._codes:
            self._take_up_buffers()
        return self._state

    def margins(self, progress: list[float]) -> torch.Tensor | None:
        """As Stack.margins."""
        return None if self._objective is None else self._objective.margins(progress)

    def step(
        self,
        features: dict[str, torch.Tensor],
        *,
        matching: Matching,
        rates: Sequence[float],
        margins: torch.Tensor | None,
    ) -> torch.Tensor:
        """As Stack.step. Raises HeadError or TrainingError when the user's code fails or returns something wrong."""
        config, (rate,) = self.configs[0], rates
        # A copy, for the code may write into it.
        matches = matching(slice(None))[0].bool().clone()
        devices = [torch.cuda.current_device()] if self._device == "cuda" else []
        with torch.enable_grad(), torch.random.fork_rng(devices=devices):
            # Seeded by the step's number, so that a resumed run draws the same random numbers.
            torch.manual_seed(int(np.random.SeedSequence([config.seed, self._steps]).generate_state(1, np.uint64)[0]))
            embeddings = self._embeddings(features)
            value = self._value(embeddings["text"] @ embeddings["image"].T, matches, margins=margins)
            # From Python it may be set beside a head that has no use for it.
            if config.keep_neighbours and in_use(vars(config), "keep_neighbours"):
                value = value + self._kept(embeddings, features)
            self._optimiser.zero_grad()
            if self._codes:
                _call_backward(value, self._codes)
            else:
                value.backward()
        if all(variable.grad is None for variable in self._learning.values()):
            raise TrainingError(
                f"the gradient of {self._codes.get('loss', config.loss)} reaches nothing that learns; expected torch "
                f"operations all along."
            )
        if config.clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(list(self._learning.values()), config.clip_norm)
        for group in self._optimiser.param_groups:
            group["lr"] = rate
        self._optimiser.step()
        self._finish_step(config)
        return value.detach()[None]

    def _finish_step(self, config: TrainConfig) -> None:
        self._steps += 1
        self._state["count"] += 1
        bound_scalars({name[7:]: values for name, values in self._state.items() if name.startswith(_SCALAR)})
        if config.ema is not None:
            for name in self._learning:
                if name.startswith(_PLAIN):
                    self._state[f"average/{name}"].lerp_(self._state[name], 1 - config.ema)

    def _embeddings(self, features: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        texts, images = self._head.embed_texts(features["text"][0]), self._head.embed_images(features["image"][0])
        if texts.shape[1] != images.shape[1]:
            raise TrainingError(
                f"{self._codes['head']} embeds images in {images.shape[1]:,} numbers and texts in {texts.shape[1]:,}; "
                f"expected equally many."
            )
        if not texts.requires_grad and not images.requires_grad:
            raise TrainingError(
                f"{self._codes['head']} returned embeddings without a gradient; expected torch operations on its "
                f"parameters."
            )
        return {"image": images.float(), "text": texts.float()}

    def _kept(self, embeddings: dict[str, torch.Tensor], features: dict[str, torch.Tensor]) -> torch.Tensor:
        """The term that keeps neighbours, of the sides that learn, as a scalar with a gradient."""
        (config,), total = self.configs, torch.zeros((), device=self._device)
        weights, products = torch.tensor([config.keep_neighbours], device=self._device), Products(self._device)
        for side in learning_sides(config):
            columns = embeddings[side].detach().T[None]
            kept = keep_neighbours(columns, features[side], weights=weights, products=products)
            linear = (embeddings[side] * kept.gradient[0].T).sum()
            total = total + kept.value[0] + (linear - linear.detach())
        return total

    def _value(
        self, similarities: torch.Tensor, matches: torch.Tensor, *, margins: torch.Tensor | None
    ) -> torch.Tensor:
        """The loss as a scalar with a gradient."""
        if self._objective is None:
            return _own_value(self._codes["loss"], self._loss, similarities, matches)
        learned = {name: self._learning[f"{_SCALAR}{name}"] for name in self._scalar_names()}
        value, gradient, by_scalar = self._objective.value(
            similarities.detach()[None],
            matches[None],
            margins=margins,
            learned={name: variable.detach()[None] for name, variable in learned.items()},
        )
        # A term of value zero that carries the gradient computed by the loss.
        linear = (similarities * gradient[0]).sum()
        linear = linear + sum(variable * by_scalar[name][0] for name, variable in learned.items())
        return value[0] + (linear - linear.detach())

    def _scalar_names(self) -> list[str]:
        return [name.removeprefix(_SCALAR) for name in self._learning if name.startswith(_SCALAR)]

    def _trainable(self, config: TrainConfig, cache: FeatureCache) -> Head:
        """The head of the state's tensors; the state then refers to the head's tensors."""
        tensors = {name.removeprefix(_PLAIN): values for name, values in self._state.items() if name.startswith(_PLAIN)}
        head = build_run_head(config, tensors, codes=self._codes, cache=cache)
        self._state |= {f"{_PLAIN}{name}": tensor for name, tensor in head.tensors.items()}
        if "head" not in self._codes:
            return head.train()
        with self._codes["head"].guarded(HeadError, f"{self._codes['head']}.train"):
            return head.train()

    def _take_up_buffers(self) -> None:
        """Copy into the state what the head's code has put into new tensors, as `self.mean = 0.9 * self.mean` does."""
        code, tensors = self._codes["head"], self._head.tensors
        kept = {name.removeprefix(_PLAIN): values for name, values in self._state.items() if name.startswith(_PLAIN)}
        learning = {name.removeprefix(_PLAIN): v for name, v in self._learning.items() if name.startswith(_PLAIN)}
        replaced = [name for name, variable in learning.items() if _place(tensors.get(name)) != _place(variable)]
        if replaced or tensors.keys() != kept.keys():
            names = sorted(replaced or tensors.keys() ^ kept.keys())
            raise TrainingError(
                f"{code} has changed its {names[0].removeprefix('module.')} while it was trained; all parameters and "
                f"buffers have to be made when the head is, and parameters have to stay the same."
            )
        for name, values in kept.items():
            tensor = tensors[name]
            if tensor.shape != values.shape or tensor.dtype != values.dtype:
                raise TrainingError(
                    f"{code} has changed its {name.removeprefix('module.')} from {_form(values)} to {_form(tensor)} "
                    f"while it was trained; expected a tensor of the same shape and type."
                )
            if tensor.data_ptr() != values.data_ptr():
                values.copy_(tensor)

    def _variable(self, name: str) -> torch.Tensor:
        """What the optimiser updates: a parameter of the head or a scalar. It shares memory with the state."""
        if name.startswith(_PLAIN):
            return self._head.get_parameter(name.removeprefix(_PLAIN)).requires_grad_()
        return self._state[name].detach().requires_grad_()

    def _make_optimiser(self, config: TrainConfig) -> torch.optim.Optimizer:
        groups = [
            {"params": [variable for name, variable in self._learning.items() if name.startswith(prefix)], **decay}
            for prefix, decay in ((_PLAIN, {"weight_decay": config.weight_decay}), (_SCALAR, {"weight_decay": 0.0}))
        ]
        optimiser = torch.optim.AdamW(
            [group for group in groups if group["params"]],
            lr=config.lr,
            betas=(config.beta1, config.beta2),
            eps=config.eps,
            # Of a large head one operation a tensor, and not one for each step of the formula.
            **({"foreach": False} if self._codes else {"fused": True}),
        )
        for name, variable in self._learning.items():
            optimiser.state[variable] = {
                "step": self._state[f"steps/{name}"],
                "exp_avg": self._state[f"first/{name}"],
                "exp_avg_sq": self._state[f"second/{name}"],
            }
        return optimiser


def _own_value(code: OwnCode, loss: Callable, similarities: torch.Tensor, matches: torch.Tensor) -> torch.Tensor:
    expected = "expected a scalar tensor, by torch operations on similarities (captions, images)"
    if not callable(loss):
        raise UsageError(f"{code} is {type(loss).__name__}; expected a function of (similarities, matches).")
    with code.guarded(TrainingError, str(code), expected="it is called with (similarities, matches)"):
        value = loss(similarities, matches)
    if not isinstance(value, torch.Tensor):
        raise TrainingError(f"{code} returned {type(value).__name__}; {expected}.")
    if value.dim() != 0 or not value.is_floating_point():
        raise TrainingError(f"{code} returned a tensor {_form(value)}; {expected}.")
    if not value.requires_grad:
        raise TrainingError(f"{code} returned a tensor without a gradient; {expected}.")
    return value


def _call_backward(value: torch.Tensor, codes: Codes) -> None:
    code = codes.get("loss") or codes["head"]
    with code.guarded(TrainingError, f"the gradient of {code}"):
        value.backward()


def _form(tensor: torch.Tensor) -> str:
    return f"{tuple(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}"


def _place(tensor: torch.Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()
