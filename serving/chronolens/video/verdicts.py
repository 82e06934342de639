"""Sentences and error classes for what the sandbox reports by name; no text of the sandbox or of FFmpeg reaches a user."""

from __future__ import annotations

from chronolens.errors import ClipError, ClipTooLargeError, UnsupportedClipError, UnusableClipError
from chronolens.video.limits import CODECS

_UNSUPPORTED = {
    "unrecognised": "The file is no MP4, QuickTime, Matroska, WebM or AVI video.",
    "playlist": "The file is a list that points to other files; send the video itself.",
    "unsupported-codec": "The video codec is not one of those that are decoded.",
}
_UNUSABLE = {
    "empty-file": "The file has no bytes.",
    "undecodable": "The video is damaged, cut off or otherwise cannot be decoded.",
    "external-reference": "The video keeps its pictures in another file; send one that holds everything.",
    "encrypted": "The video is encrypted.",
    "no-video-stream": "The file has no video stream.",
    "too-many-streams": "The file has too many streams.",
    "no-frames": "The video stream shows no frame.",
    "too-many-pixels": "The frames are too large.",
    "too-many-frames": "The video has too many frames.",
    "too-small": "The frames are too small.",
    "too-short": "The video has too few frames.",
    "too-long": "The video lasts too long.",
    "resolution-changed": "The size of the frames changes in the middle of the video.",
    "decode-timeout": "Decoding took too long and was stopped.",
}
_NOTES = {
    "interlaced": "The video is interlaced; its frames are used with both fields in them.",
    "hdr": "The video is HDR; its brightness values are used without tone mapping.",
    "alpha": "The transparency of the video is ignored.",
    "not-square": "The pixels of the video are not square; frames are used as they are stored.",
    "odd-rotation": "The video asks for a rotation that is no quarter turn; it is shown unrotated.",
    "cut-short": "The video ends earlier than its header says.",
    "times-missing": "The video has no usable timestamps; they are counted from its frame rate.",
}


def error(code: str, limit: float | None = None, observed: float | None = None) -> ClipError:
    """Return the error of one problem code, ready to raise; an unknown code counts as ``undecodable``.

    Args:
        code: problem code.
        limit, observed: the numbers behind it, if any.
    """
    if code == "too-large":
        return ClipTooLargeError("The file has too many bytes.", limit=limit, observed=observed)
    if code in _UNSUPPORTED:
        allowed = CODECS if code == "unsupported-codec" else ()
        return UnsupportedClipError(_UNSUPPORTED[code], code=code, allowed=allowed)
    code = code if code in _UNUSABLE else "undecodable"
    return UnusableClipError(_UNUSABLE[code], code=code, limit=limit, observed=observed)


def note(name: str) -> str | None:
    """Return the sentence for a thing the user should know; None for an unknown name."""
    return _NOTES.get(name)


def repeated(wanted: int, there: int, span: int) -> str:
    """Return the warning for a clip in which frames come up twice.

    Args:
        wanted: frames that the model takes.
        there: frames of the clip.
        span: frames that a clip needs, from the first sampled to the last.
    """
    out_of = f" out of {span}" if span > wanted else ""
    return f"The clip has {there} frames and the model takes {wanted}{out_of}; frames are repeated."


def damaged(wanted: int, hurt: int, lost: int) -> str:
    """Return the warning for a clip that is damaged, but not too much."""
    return f"The video is damaged: {hurt} of {wanted} frames used are affected, and {lost} frames are missing from it."
