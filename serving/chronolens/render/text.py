"""Text on pictures, in the font that OpenCV brings along."""

from __future__ import annotations

from functools import cache

import cv2

from chronolens.clips import Frames

WHITE = (245, 245, 245)
GREY = (165, 165, 165)
BACKGROUND = (24, 24, 28)


@cache
def _font() -> cv2.FontFace:
    return cv2.FontFace("sans")


def text_width(text: str, size: int, *, weight: int = 400) -> int:
    """Width of a line in pixels.

    Args:
        text: one line.
        size: height of the font in pixels.
        weight: 400 regular, 600 semibold.
    """
    _, _, width, _ = cv2.getTextSize((0, 0), text, (0, 0), _font(), size, weight)
    return int(width)


def shorten(text: str, size: int, room: int, *, weight: int = 400) -> str:
    """Return the text, cut with three dots where it is wider than ``room`` pixels; control characters become blanks."""
    text = "".join(letter if letter.isprintable() else " " for letter in text[:200])
    if text_width(text, size, weight=weight) <= room:
        return text
    while text and text_width(text + "...", size, weight=weight) > room:
        text = text[:-1]
    return text.rstrip() + "..."


def write(
    image: Frames, text: str, left: int, baseline: int, size: int, *, colour: tuple[int, int, int] = WHITE, weight: int = 400
) -> None:
    """Draw one line into an RGB image, from ``left`` rightwards, standing on ``baseline``; what does not fit is cut with dots."""
    room = image.shape[1] - left
    cv2.putText(image, shorten(text, size, room, weight=weight), (left, baseline), colour, _font(), size, weight)
