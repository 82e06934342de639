"""chronolens: why a video model said what it said, and when in the clip it made up its mind."""

__version__ = "0.1.0"
