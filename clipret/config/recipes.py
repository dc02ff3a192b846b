"""Named sets of training settings: what is worth trying after the defaults.

RECIPES is the table: a new recipe is a row here. Its settings are plain ones of TrainConfig, and a run that was trained
by a recipe holds them as if each had been given.
"""

from typing import Any, NamedTuple

from clipret.errors import UsageError


class Recipe(NamedTuple):
    """Settings of TrainConfig that differ from the defaults, and what they are good for in a few words."""

    help: str
    settings: dict[str, Any]


RECIPES: dict[str, Recipe] = {
    "strong": Recipe(
        "a gated head and InfoNCE",
        {
            "head": "gated",
            "loss": "infonce",
            "batch_size": 256,
            "lr": 3e-4,
            "warmup": 20,
        },
    ),
}


RECIPE_HELP = (
    "Settings to begin with, which other options change: "
    + ", ".join(f"{name} ({row.help})" for name, row in RECIPES.items())
    + "."
)


def recipe_settings(name: str) -> dict[str, Any]:
    """Settings by name: TrainConfig(cache, **recipe_settings("strong")). Raises UsageError for an unknown one."""
    if name not in RECIPES:
        raise UsageError(f"--recipe is '{name}'; expected one of: {', '.join(RECIPES)}.")
    return dict(RECIPES[name].settings)
