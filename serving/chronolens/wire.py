"""Named arrays and JSON facts as one body, without pickle.

The body is a safetensors file whose metadata holds one JSON document. Used between the gateway's processes and every engine.
"""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load, save

from chronolens.clips import ClipInfo, DecodedClip
from chronolens.errors import OptionsError

Arrays = dict[str, npt.NDArray[Any]]
MEDIA_TYPE = "application/octet-stream"
_KEY = "json"


def pack(arrays: Arrays, facts: dict[str, Any]) -> bytes:
    """Return one body that holds ``arrays`` (any shape, numeric) and the JSON document ``facts``."""
    contiguous = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    return save(contiguous, metadata={_KEY: json.dumps(facts)})


def unpack(body: bytes) -> tuple[Arrays, dict[str, Any]]:
    """Return (arrays, facts) of a body made by :func:`pack`.

    Raises:
        OptionsError: the bytes are no such body.
    """
    try:
        arrays = load(body)
    except (SafetensorError, KeyError, ValueError) as error:
        raise OptionsError("the body is no packed set of arrays", code="malformed-body") from error
    return arrays, facts_of(body)


def facts_of(body: bytes) -> dict[str, Any]:
    """Return only the facts of a body made by :func:`pack`, without looking at its arrays.

    Raises:
        OptionsError: the bytes are no such body.
    """
    try:
        length = int.from_bytes(body[:8], "little")
        facts = json.loads(json.loads(body[8 : 8 + length])["__metadata__"][_KEY])
    except (KeyError, ValueError, TypeError, RecursionError) as error:
        raise OptionsError("the body is no packed set of arrays", code="malformed-body") from error
    if not isinstance(facts, dict):
        raise OptionsError("the body's facts are no JSON object", code="malformed-body")
    return facts


def pack_clip(clip: DecodedClip) -> bytes:
    """Return one body that holds a decoded clip, frames and facts."""
    arrays: Arrays = {"frames": clip.frames, "indices": clip.indices, "timestamps_s": clip.timestamps_s}
    return pack(arrays, {"info": dataclasses.asdict(clip.info), "warnings": clip.warnings})


def unpack_clip(body: bytes) -> DecodedClip:
    """Return the clip of a body made by :func:`pack_clip`.

    Raises:
        OptionsError: the bytes are no such body.
    """
    arrays, facts = unpack(body)
    try:
        info = ClipInfo(**facts["info"])
        return DecodedClip(arrays["frames"], arrays["indices"], arrays["timestamps_s"], info, list(facts["warnings"]))
    except (KeyError, TypeError) as error:
        raise OptionsError("the body holds no decoded clip", code="malformed-body") from error
