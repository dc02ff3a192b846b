"""Whether what we compute is what an encoder's own library does, to rounding."""

import torch

from clipret.errors import BackboneError

# Largest difference that is allowed, relative to the largest value of the library's own output.
_TOLERANCE = {torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 5e-2}


def require_equal(
    ours: torch.Tensor, expected: torch.Tensor, *, what: str, source: str, library: str, dtype: torch.dtype
) -> None:
    """Raise BackboneError unless two outputs of equal shape, (B, D) or (B, E), differ by rounding alone.

    what     ours are, in words
    source   of the expected ones, as messages name it
    library  that is, with its version
    dtype    in which they were computed
    """
    expected = expected.float()
    error = ((ours.float() - expected).abs().max() / expected.abs().max().clamp_min(1e-12)).item()
    if not error <= _TOLERANCE[dtype]:
        raise BackboneError(
            f"{what} differ from {source}'s own output by {error:.1e} (relative; rounding explains at most "
            f"{_TOLERANCE[dtype]:.0e}). Nothing was written; clipret does not support this model or this version of "
            f"{source} ({library})."
        )
