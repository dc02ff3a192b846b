"""An extraction to be killed. Preloaded by the server that forks it, so that it starts in milliseconds."""

import torch

from clipret.backbones import openai
from clipret.extraction import extract

openai._import_clip()


def extract_counting(settings, batches):
    """Extract, counting in the shared integer `batches` what has been written."""
    torch.set_num_threads(1)

    def count(progress):
        batches.value += 1

    extract(settings, on_progress=count)
