"""Small random encoders of each family, by short names."""

import pytest
import torch

from clipret.backbones import load_backbone
from clipret.backbones.loading import quiet
from tests.helpers.backbone_models import lively_clip
from tests.helpers.hf_models import write_model
from tests.helpers.open_clip_models import ARCHITECTURES, write_open_clip


@pytest.fixture(scope="session")
def encoder(tmp_path_factory):
    """clip:transformer, clip:resnet, hf:KIND or open_clip:ARCHITECTURE -> a backbone; its folder is written once."""
    root, names = tmp_path_factory.mktemp("encoders"), {}

    def load(name):
        family, _, kind = name.partition(":")
        if name not in names:
            folder = root / name.replace(":", "-")
            if family == "hf":
                with quiet():
                    names[name] = f"hf:{write_model(folder, kind)}"
            elif family == "open_clip":
                names[name] = f"open_clip:local-dir:{write_open_clip(folder, ARCHITECTURES[kind])}"
            else:
                folder = folder.with_suffix(".pt")
                torch.save(lively_clip(kind).state_dict(), folder)
                names[name] = str(folder)
        return load_backbone(names[name])

    return load
