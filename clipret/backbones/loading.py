"""What loading has in common, whichever library loads: silence, errors of one line, weights that are all there."""

import contextlib
import logging
import pickle
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

from clipret.errors import BackboneError, ClipretError

_LONGEST_REASON = 300


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Inside, nothing is logged or warned of, and transformers draws no progress: much of that is for developers."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings(), _no_progress_bars():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


@contextlib.contextmanager
def explained(library: str, what: str) -> Iterator[None]:
    """Inside, the library is quiet, and whatever it raises at files that it cannot use becomes a BackboneError.

    what  the library is asked to load
    """
    try:
        with quiet():
            yield
    except ClipretError:
        raise
    except ImportError as error:
        raise BackboneError(f"{library} cannot load {what}, as a package is missing: {reason_of(error)}.") from None
    except Exception as error:
        # Of several libraries, which have no common class of errors.
        if isinstance(error, pickle.UnpicklingError) or "weights_only" in str(error):
            # torch itself advises to run what is in the file.
            raise BackboneError(
                f"the weights of {what} are a pickle that holds more than tensors, which clipret does not run; "
                f"expected safetensors, or a pickle of a state dict."
            ) from None
        raise BackboneError(f"{library} cannot load {what}: {reason_of(error)}.") from None


def reason_of(error: Exception) -> str:
    """The message of an error in one line, without a full stop; its class where it has none."""
    return " ".join(str(error).split())[:_LONGEST_REASON].rstrip(".") or type(error).__name__


def missing_weights(information: Mapping[str, Any]) -> tuple[list[str], bool]:
    """What transformers started at random, by what from_pretrained returns about it: the names of the tensors that are
    missing or of another size than config.json says, and whether there are any of another size.
    """
    resized = [entry if isinstance(entry, str) else entry[0] for entry in information["mismatched_keys"]]
    names = {*information["missing_keys"], *resized}
    return sorted(name for name in names if not name.endswith("position_ids")), bool(resized)


def require_weights(missing: list[str], *, name: str, kind: str, resized: bool = False) -> None:
    """Raise BackboneError where tensors are missing: the library starts those at random, and only logs it.

    missing  their names
    name     of the model
    kind     its class
    resized  whether some are of other sizes than config.json says
    """
    if missing:
        sizes = " of the sizes that config.json says" if resized else ""
        raise BackboneError(
            f"the weights of {name} lack {len(missing):,} of the tensors of a {kind}{sizes}, such as {missing[0]}; "
            f"transformers would start them at random. Expected the files of a whole {kind}."
        )


@contextlib.contextmanager
def _no_progress_bars() -> Iterator[None]:
    try:
        from transformers.utils import logging as bars
    except ImportError:
        yield
        return
    shown = bars.is_progress_bar_enabled()
    bars.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            bars.enable_progress_bar()
