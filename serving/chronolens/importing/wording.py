"""Makes names that come from files and servers fit to be shown."""

from __future__ import annotations


def plain(text: str) -> str:
    r"""Return a text with characters that a terminal would obey, or not show, written as ``\xNN``, ``\n`` or ``\uNNNN``."""
    return "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode("ascii") for letter in text)
