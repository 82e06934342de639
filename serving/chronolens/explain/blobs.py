"""Blobs of a heat map: how many places a network looks at, how large they are and how far from the centre.

The paper says only "OpenCV's blob detection" on the per-frame map; these parameters are ours. The map, scaled once per clip to [0, 1], is
enlarged bilinearly to the input size and rounded to 0..255; ``SimpleBlobDetector`` thresholds it at 50, 60, ... 210 (the OpenCV
defaults: below 20 % of the clip's maximum nothing counts), groups the centres of bright regions less than 10 pixels apart and
keeps those found at two levels or more. The filters by circularity, convexity and inertia are off, because heat is often elongated; the
smallest area is 25 square pixels and the largest nine tenths of the frame, so that a constant map has no blob. A blob's size is its
diameter, as OpenCV gives it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypedDict

import cv2
import numpy as np
import numpy.typing as npt

MIN_THRESHOLD, MAX_THRESHOLD, THRESHOLD_STEP = 50.0, 220.0, 10.0
LARGEST_SHARE = 0.9
MIN_REPEATABILITY, MIN_DISTANCE_PX, MIN_AREA_PX = 2, 10.0, 25.0


@dataclass(frozen=True)
class Blob:
    """Centre (x, y) and diameter in pixels of the enlarged map; (0, 0) is the centre of the upper left pixel."""

    x: float
    y: float
    size: float


class BlobStatistics(TypedDict):
    """Mean number of blobs per frame, and means over all blobs of the clip in pixels; None without a blob."""

    count_per_frame: float
    mean_size_px: float | None
    mean_center_distance_px: float | None


def find_blobs(heat: npt.NDArray[np.floating], height: int, width: int) -> list[Blob]:
    """Return the blobs of one frame.

    Args:
        heat: (H', W') in [0, 1], scaled once per clip.
        height, width: of the network's input; the map is enlarged to it.
    """
    enlarged = cv2.resize(np.clip(heat, 0.0, 1.0).astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR)
    image = np.rint(enlarged * 255.0).astype(np.uint8)
    return [Blob(float(point.pt[0]), float(point.pt[1]), float(point.size)) for point in _detector(height, width).detect(image)]


def blob_statistics(maps: npt.NDArray[np.floating], height: int, width: int) -> BlobStatistics:
    """Return count, size and distance to the frame's centre, averaged as in the paper's table.

    Args:
        maps: (T', H', W') of one clip, values >= 0; divided here by their maximum, which changes nothing when that was done before.
        height, width: of the network's input in pixels.

    Source: Mänttäri et al. 2020 (blob count, size and distance of the Grad-CAM maps).
    """
    top = float(maps.max(initial=0.0))
    found = [find_blobs(heat / top if top > 0 else heat, height, width) for heat in maps]
    blobs = [blob for frame in found for blob in frame]
    count = len(blobs) / len(found) if found else 0.0
    if not blobs:
        return {"count_per_frame": count, "mean_size_px": None, "mean_center_distance_px": None}
    x, y = (width - 1) / 2, (height - 1) / 2
    return {
        "count_per_frame": count,
        "mean_size_px": float(np.mean([blob.size for blob in blobs])),
        "mean_center_distance_px": float(np.mean([math.hypot(blob.x - x, blob.y - y) for blob in blobs])),
    }


def _detector(height: int, width: int) -> cv2.SimpleBlobDetector:
    parameters = cv2.SimpleBlobDetector.Params()
    parameters.minThreshold, parameters.maxThreshold, parameters.thresholdStep = MIN_THRESHOLD, MAX_THRESHOLD, THRESHOLD_STEP
    parameters.minRepeatability, parameters.minDistBetweenBlobs = MIN_REPEATABILITY, MIN_DISTANCE_PX
    parameters.filterByColor, parameters.blobColor = True, 255
    parameters.filterByArea, parameters.minArea, parameters.maxArea = True, MIN_AREA_PX, LARGEST_SHARE * height * width
    parameters.filterByCircularity = parameters.filterByConvexity = parameters.filterByInertia = False
    return cv2.SimpleBlobDetector.create(parameters)
