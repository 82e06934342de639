"""How far freezing and reversing lower a score; free of torch."""

from __future__ import annotations

from typing import TypedDict

SMALLEST_DROP = 0.001


class Drop(TypedDict):
    """Drops of the score: freeze ``OS - FS``, reverse ``OS - RS``, ratio ``freeze / reverse``, difference ``RS - FS``.

    The ratio is None, and the reason says why, when a drop is at most 0.001 or a mask is missing.
    """

    freeze: float | None
    reverse: float | None
    ratio: float | None
    reason: str | None
    difference: float | None


def drop(original: float, freeze: float | None, reverse: float | None) -> Drop:
    """Return the drops of the score from OS, FS and RS.

    Source: Mänttäri et al. 2020: the ratio is left out when either drop is <= 0.001.
    """
    frozen_drop = None if freeze is None else original - freeze
    reversed_drop = None if reverse is None else original - reverse
    difference = None if freeze is None or reverse is None else reverse - freeze
    ratio, reason = None, None
    if frozen_drop is None or reversed_drop is None:
        reason = "the ratio needs a freeze mask"
    elif frozen_drop <= SMALLEST_DROP:
        reason = f"freezing lowers the score by no more than {SMALLEST_DROP:g}"
    elif reversed_drop <= SMALLEST_DROP:
        reason = f"reversing lowers the score by no more than {SMALLEST_DROP:g}"
    else:
        ratio = frozen_drop / reversed_drop
    return {"freeze": frozen_drop, "reverse": reversed_drop, "ratio": ratio, "reason": reason, "difference": difference}
