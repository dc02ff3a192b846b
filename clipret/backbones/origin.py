"""What a model of another library came from, to write it in that library's form again."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Origin:
    """What a library reads beside the weights of a model.

    folder      with its files: config, tokenizer, preprocessing; None: the library has it under a name
    model       open_clip's model_cfg; of other libraries empty
    preprocess  open_clip's preprocess_cfg; of other libraries empty
    """

    folder: Path | None = None
    model: Mapping[str, Any] = field(default_factory=dict)
    preprocess: Mapping[str, Any] = field(default_factory=dict)
