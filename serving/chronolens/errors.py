"""Every error that chronolens raises on purpose.

    ChronolensError
    ├── ClipError                 the clip is at fault
    │   ├── ClipTooLargeError         too many bytes
    │   ├── UnsupportedClipError      a kind of file, container or codec that is not accepted
    │   └── UnusableClipError         accepted kind, but no usable frames (empty, broken, too long, ...)
    ├── OptionsError              the request is at fault
    │   ├── UnknownModelError
    │   ├── UnknownClassError
    │   └── UnknownLayerError
    ├── WeightsError              a weights file or its record is missing, damaged or does not fit
    │   └── PluginError               somebody's own model cannot be served; the message says what is missing
    ├── NonFiniteResultError      the network returned NaN or infinity
    ├── ExportError               an artefact cannot be made, or does not answer as the network does
    ├── EngineUnavailableError    whatever runs the models cannot be reached, or answered nonsense
    │   ├── EngineCrashedError        it died while it held the request; perhaps because of it
    │   └── OverloadedError           it has more to do than it takes in
    ├── FatalCallError            the engine died of this request again and again; it is not tried any more
    └── DeadlineExceededError     the answer would have come too late

Each error carries a stable ``code`` (kebab-case, the ``code`` of the HTTP problem body) and the facts that help to repair the
input. Messages never hold paths, library versions or the client's file name: they are shown to strangers.
"""

from __future__ import annotations

from collections.abc import Sequence


class ChronolensError(Exception):
    """Base of the tree.

    Args:
        detail: one sentence for the person who sent the input.
        code: stable problem code; the class's own when None.
        pointer: JSON pointer of the option at fault, such as ``/mask/steps``.
        limit: the limit that was passed, if any.
        observed: the value that passed it.
        allowed: what would have been accepted; shortened to 20 entries.
    """

    code = "internal-error"

    def __init__(
        self,
        detail: str,
        *,
        code: str | None = None,
        pointer: str | None = None,
        limit: float | None = None,
        observed: float | None = None,
        allowed: Sequence[str] = (),
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        if code is not None:
            self.code = code
        self.pointer = pointer
        self.limit = limit
        self.observed = observed
        self.allowed = list(allowed)[:20]


class ClipError(ChronolensError):
    """The clip cannot be used."""

    code = "undecodable"


class ClipTooLargeError(ClipError):
    """The clip has more bytes than the service takes."""

    code = "too-large"


class UnsupportedClipError(ClipError):
    """The file is no video, or its container or codec is not on the list (``unrecognised``, ``unsupported-codec``)."""

    code = "unrecognised"


class UnusableClipError(ClipError):
    """The kind is supported, but no usable frames come out of it."""

    code = "undecodable"


class OptionsError(ChronolensError):
    """An option has a wrong name, type, range or combination."""

    code = "invalid-option"


class UnknownModelError(OptionsError):
    """No model of that name is served."""

    code = "unknown-model"


class UnknownClassError(OptionsError):
    """The model has no such class index or label."""

    code = "unknown-class"


class UnknownLayerError(OptionsError):
    """The model has no such layer."""

    code = "unknown-layer"


class WeightsError(ChronolensError):
    """A weights file or its record is missing, damaged or does not fit the architecture."""

    code = "weights-invalid"


class PluginError(WeightsError):
    """An own model cannot be imported, or lacks what serving it needs. The operator reads this when the engine starts."""

    code = "plugin-invalid"


class NonFiniteResultError(ChronolensError):
    """The network returned NaN or infinity for this clip."""

    code = "non-finite-result"


class ExportError(ChronolensError):
    """An artefact cannot be made of this network, or it does not answer as the network does."""

    code = "export-failed"


class EngineUnavailableError(ChronolensError):
    """The process that runs the models cannot be reached or did not answer."""

    code = "engine-unavailable"


class EngineCrashedError(EngineUnavailableError):
    """What runs the models died while it held this request. Trying again is right once or twice, then the request may be to blame."""

    code = "engine-crashed"


class OverloadedError(EngineUnavailableError):
    """More requests wait for the models than the service keeps waiting."""

    code = "overloaded"


class FatalCallError(ChronolensError):
    """The engine died of this request each time it was tried; trying again would only take it away from others."""

    code = "engine-crashed"


class DeadlineExceededError(ChronolensError):
    """The request was not answered in the time that it was given, waiting included."""

    code = "deadline-exceeded"
