"""What a setting can be wrong by; each raises UsageError in the words of the command line."""

from pathlib import Path

from clipret.errors import UsageError


def as_paths(config, *names: str) -> None:
    """Make paths of these settings, where they are set."""
    for name in names:
        value = getattr(config, name)
        if value is not None:
            object.__setattr__(config, name, Path(value))


def one_of(option: str, value, *, allowed: tuple[str, ...]) -> None:
    """The value is one of those allowed."""
    if value not in allowed:
        raise UsageError(f"--{option} is '{value}'; expected one of: {', '.join(allowed)}.")


def at_least(option: str, value, *, low) -> None:
    """The value is `low` or more."""
    if not value >= low:
        raise UsageError(f"--{option} is {value}; expected {low} or more.")


def above(option: str, value, *, low, at_most) -> None:
    """The value is above `low`, and at most `at_most`."""
    if not low < value <= at_most:
        raise UsageError(f"--{option} is {value}; expected a value above {low}, at most {at_most}.")


def within(option: str, value, *, low, high) -> None:
    """The value is from `low` to `high`."""
    if not low <= value <= high:
        raise UsageError(f"--{option} is {value}; expected a value from {_told(low)} to {_told(high)}.")


def _told(bound) -> str:
    return f"{bound:,}" if isinstance(bound, int) else str(bound)
