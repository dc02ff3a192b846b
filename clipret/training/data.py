"""What runs on a cache share: the training pairs, their features, and the validation split."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from clipret.annotations.counting import copies_in_words
from clipret.cache import FeatureCache
from clipret.cache.image_keys import image_keys, split_copies
from clipret.config import TrainConfig
from clipret.errors import TrainingError
from clipret.heads.linear import LinearHead
from clipret.protocols.leakage import training_images, training_keys
from clipret.protocols.protocol import split_protocol
from clipret.retrieval.baseline import baseline_projections
from clipret.retrieval.gallery import Gallery, read_validation
from clipret.retrieval.metrics import rsum
from clipret.training.features import Features
from clipret.training.pairs import Pairs
from clipret.training.starting import inputs_of


@dataclass(frozen=True)
class Trained:
    """Images that are trained on.

    keys     as save_head takes them
    remarks  what the user should know of them
    """

    pairs: Pairs
    keys: np.ndarray | None
    remarks: list[str]

    @classmethod
    def of(cls, cache: FeatureCache, *, without_copies: bool) -> "Trained":
        """Those of train, or of them those that are not in val or test too. Raises TrainingError."""
        (fold,) = training_images(cache, without_copies=without_copies).folds
        pairs = Pairs.of(cache, fold)
        if pairs.texts == 1 and len(pairs) > 1:
            raise TrainingError(
                f"the {len(pairs.owners):,} training captions of {cache.path} are all the same text, so that every "
                f"caption matches every image and there is nothing to learn; expected captions that differ."
            )
        keys = training_keys(image_keys(cache, fold.image_rows))
        if without_copies:
            left_out = len(split_protocol(cache, split="train").image_rows) - len(fold.image_rows)
            one = "1 training image was left out: val or test has it too"
            several = f"{left_out:,} training images were left out: val or test has them too"
            return cls(pairs, keys, [one if left_out == 1 else several])
        copies = [
            copies_in_words(group)
            for group in split_copies(cache)
            if group["of"] == "train" and group["split"] != "restval"
        ]
        remedy = "; --drop-cross-split-duplicates leaves those of train out"
        return cls(pairs, keys, ["; ".join(copies) + remedy] if copies else [])


@dataclass(frozen=True)
class Data:
    """What the runs of a stack share.

    validation  None where the cache has no val split to choose an epoch on
    """

    cache: FeatureCache
    pairs: Pairs
    features: Features
    validation: Gallery | None
    device: str


@dataclass(frozen=True)
class Prepared:
    """What all runs of a job share.

    trained    by whether copies are dropped
    features   by where they live (_place_of)
    baseline   validation rsum of the cache's baseline, zero-shot where it has one; None without a val split
    """

    cache: FeatureCache
    device: str
    trained: dict[bool, Trained]
    features: dict[tuple, Features]
    validation: Gallery | None
    baseline: float | None

    @property
    def baseline_entries(self) -> dict[str, float | None]:
        """zero_shot_val_rsum as result.json has it, and closed_form_val_rsum where that is the baseline."""
        if self.cache.aligned or self.baseline is None:
            return {"zero_shot_val_rsum": self.baseline}
        return {"zero_shot_val_rsum": None, "closed_form_val_rsum": self.baseline}

    def images(self, config: TrainConfig) -> Trained:
        """The images that a run is trained on."""
        return self.trained[config.drop_cross_split_duplicates]

    def data(self, config: TrainConfig) -> Data:
        """What a run, and those of its stack, are trained with."""
        features = self.features[_place_of(config)]
        return Data(self.cache, self.images(config).pairs, features, self.validation, self.device)


def prepare(configs: Sequence[TrainConfig], *, cache: FeatureCache, device: str) -> Prepared:
    """Read the features of the training pairs and of val, which may be gigabytes, and measure the baseline on val.

    Raises CacheError when a feature is not finite, UsageError when there are no training images or features do not fit
    where they were to be, and TrainingError when there is nothing to learn.
    """
    dropping = {config.drop_cross_split_duplicates for config in configs}
    trained = {without_copies: Trained.of(cache, without_copies=without_copies) for without_copies in dropping}
    features = {}
    for key in dict.fromkeys(map(_place_of, configs)):
        without_copies, placement, limit, inputs = key
        features[key] = Features(
            cache,
            trained[without_copies].pairs,
            placement=placement,
            device=device,
            memory_limit=limit,
            inputs=dict(inputs),
        )
    validation, baseline = read_validation(cache), None
    if validation is not None:
        baseline = rsum(validation.measure(LinearHead(baseline_projections(cache)).to(device), device=device))
    return Prepared(cache, device, trained, features, validation, baseline)


def _place_of(config: TrainConfig) -> tuple:
    """Equal for runs that share their features in memory."""
    inputs = tuple(inputs_of(config).items())
    return config.drop_cross_split_duplicates, config.features, config.memory_limit, inputs
