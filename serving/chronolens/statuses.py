"""The HTTP status of each error of the library, the same wherever it is refused: at the gateway or at a model server."""

from __future__ import annotations

from collections.abc import Mapping

from chronolens import errors

Table = Mapping[type[BaseException], int]

STATUS: Table = {
    errors.ClipTooLargeError: 413,
    errors.UnsupportedClipError: 415,
    errors.ClipError: 422,
    errors.OptionsError: 422,
    errors.NonFiniteResultError: 422,
    errors.WeightsError: 503,
    errors.EngineUnavailableError: 503,
    errors.FatalCallError: 503,
    errors.DeadlineExceededError: 504,
}


def status_in(table: Table, error: BaseException) -> int:
    """Return the status of an error or of the nearest of its ancestors, so that a new error gets its parent's; 500 when there is none."""
    return next((table[kind] for kind in type(error).__mro__ if kind in table), 500)
