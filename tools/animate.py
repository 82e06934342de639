"""Turn a panel video into the animated picture of the README: ``python tools/animate.py demo-out/panel.mp4 docs/images/panel.webp``."""

from __future__ import annotations

import argparse
from fractions import Fraction
from pathlib import Path

import av


def animate(source: Path, target: Path, *, quality: int = 60) -> None:
    """Write every frame of a video, at its own time, as an endless WebP animation."""
    with av.open(str(source)) as video, av.open(str(target), "w", format="webp", options={"loop": "0"}) as picture:
        shown = video.streams.video[0]
        stream = picture.add_stream("libwebp_anim", rate=25, options={"quality": str(quality), "compression_level": "6"})
        stream.width, stream.height, stream.pix_fmt = shown.width, shown.height, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        for frame in video.decode(shown):
            frame.pts = round(float(frame.time or 0) * 1000)
            frame.time_base = Fraction(1, 1000)
            picture.mux(stream.encode(frame))
        picture.mux(stream.encode(None))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    options = parser.parse_args()
    animate(options.source, options.target)
