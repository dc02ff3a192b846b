"""A setting is defined once: everything that is derived from the field of a config."""

from dataclasses import dataclass
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from clipret.cli import options
from clipret.config.settings import check, documented, is_none, setting, settings_of
from clipret.errors import UsageError


@documented
@dataclass(frozen=True)
class Cooking:
    """Settings of a made-up stage."""

    file: Path = setting(help="What is cooked.")
    minutes: float = setting(2.5, "Minutes in the oven.", panel="Oven", above=0, at_most=90, may_differ=True)
    share: float = setting(0.5, "Share of salt.", at_least=0, below=1)
    guests: int | None = setting(None, "Guests.", shown="nobody counts", at_least=1, at_most=9, may_differ=is_none)
    mode: str = setting("bake", "bake or fry.", choices=("bake", "fry"))
    spices: tuple[str, ...] = setting(("salt",), "Spices.", choices=("salt", "pepper"))
    cooks: int | None = setting(None, "Cooks.", auto="auto", at_least=1, at_most=3)
    lid: bool = setting(True, "With the lid on.")
    smoke: bool = setting(False, "With smoke.")
    seed: int = setting(0, "Decides nothing.", between=(0, 10), swept=False)

    def __post_init__(self):
        check(self)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"minutes": 0.0}, "--minutes is 0.0; expected a value above 0, at most 90."),
        ({"minutes": "long"}, "--minutes is long; expected a number."),
        ({"share": 1.0}, "--share is 1.0; expected a value from 0 to below 1."),
        ({"guests": 0}, "--guests is 0; expected 1 or more."),
        ({"guests": 10}, "--guests is 10; expected at most 9."),
        ({"mode": "boil"}, "--mode is 'boil'; expected one of: bake, fry."),
        ({"spices": ("salt", "sand")}, "--spices is 'sand'; expected one of: salt, pepper."),
        ({"seed": 11}, "--seed is 11; expected a value from 0 to 10."),
        ({"file": "a\0"}, "--file has a NUL character, which no path has."),
    ],
)
def test_a_value_is_checked_by_what_its_field_says(settings, message):
    with pytest.raises(UsageError) as caught:
        Cooking(**({"file": "x"} | settings))
    assert str(caught.value) == message


def test_paths_and_tuples_are_what_their_fields_say():
    config = Cooking("x", spices=["pepper"])
    assert (config.file, config.spices, config.guests) == (Path("x"), ("pepper",), None)


def test_the_docstring_names_every_setting():
    assert Cooking.__doc__.startswith("Settings of a made-up stage.\n\n    file     What is cooked.\n")
    assert all(f" {name} " in Cooking.__doc__ for name in settings_of(Cooking))


def call(*words, swept=False):
    """The config that a command line gives, or the output if it is refused."""
    got = []
    app = typer.Typer(add_completion=False, rich_markup_mode="rich")
    if swept:

        def command(values: dict, *, axes: dict):
            got.append(axes)

        app.command()(options.sweepable(Cooking)(options.from_settings(Other)(command)))
    else:

        def command(values: dict, *, quiet: options.Quiet = False):
            got.append(Cooking(**values))

        app.command()(options.from_settings(Cooking)(command))
    result = CliRunner().invoke(app, list(words), env={"COLUMNS": "120", "NO_COLOR": "1", "TERM": "dumb"})
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return got[0] if got else result.output


@dataclass(frozen=True)
class Other:
    """Settings of the sweep itself."""

    out: Path | None = setting(None, "Where to.")


def test_every_setting_has_its_option_with_type_and_default():
    assert call("--file", "x") == Cooking("x")
    words = "--file y --minutes 3 --guests 2 --mode fry --spices pepper,salt --cooks 2 --no-lid --smoke --seed 4"
    assert call(*words.split()) == Cooking(
        "y", minutes=3.0, guests=2, mode="fry", spices=("pepper", "salt"), cooks=2, lid=False, smoke=True, seed=4
    )
    assert call("--file", "x", "--cooks", "auto").cooks is None


def test_a_value_that_is_neither_an_integer_nor_a_word_is_refused():
    with pytest.raises(UsageError) as caught:
        call("--file", "x", "--cooks", "many")
    assert str(caught.value) == "--cooks is 'many'; expected a whole number, or auto."


def test_a_required_setting_is_a_required_option():
    assert "Missing option '--file'" in call()


def test_help_shows_panels_defaults_and_the_word_for_no_value():
    text = call("--help")
    for part in ("Oven", "Minutes in the oven. [default: 2.5]", "nobody counts", "[default: bake]", "[default: 0]"):
        assert part in text


def test_a_sweep_has_an_option_for_every_setting_that_it_may_vary():
    axes = call("--minutes", "1,2", "--guests", "none,3", "--smoke", swept=True)
    assert axes == {"minutes": "1,2", "guests": "none,3", "smoke": True}
    assert call(swept=True) == {}
    text = call("--help", swept=True)
    assert "--mode" in text
    assert "--seed" not in text
