"""A loss and a head as a user writes them, and as users get them wrong."""

SOFT_MARGIN = """
import torch


def soft_margin(similarities, matches):
    costs = torch.nn.functional.softplus(torch.where(matches, -1.0, 1.0) * similarities / 0.1)
    return costs[matches].mean() + costs[~matches].mean()
"""

MLP = """
import torch
from torch import nn


class MLP(nn.Module):
    def __init__(self, projections):
        super().__init__()
        self.image = nn.Parameter(projections["image/weight"])
        self.bias = nn.Parameter(projections["image/bias"])
        self.text = nn.Parameter(projections["text/weight"])
        width = self.text.shape[1]
        self.norm = nn.BatchNorm1d(width)
        self.layers = nn.Sequential(nn.Linear(width, 5), nn.ReLU(), nn.Dropout(0.2), nn.Linear(5, width))
        nn.init.zeros_(self.layers[-1].weight)

    def embed_images(self, features):
        z = features @ self.image + self.bias
        return z + self.layers(self.norm(z))

    def embed_texts(self, features):
        return features @ self.text
"""


def write(folder, *, loss=SOFT_MARGIN, head=MLP):
    """my_losses.py and my_heads.py in a folder; returns the words that name them."""
    (folder / "my_losses.py").write_text(loss)
    (folder / "my_heads.py").write_text(head)
    return {"loss": f"{folder}/my_losses.py:soft_margin", "head": f"{folder}/my_heads.py:MLP"}


def forget(monkeypatch, folder):
    """As on another machine, or for another user: nothing was ever named."""
    from clipret.machine import own_code

    monkeypatch.setenv("XDG_STATE_HOME", str(folder))
    monkeypatch.setattr(own_code, "_NAMED", set())
    monkeypatch.setattr(own_code, "_OBJECTS", {})
