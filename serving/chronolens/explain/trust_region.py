"""Minimising the objective of a mask in the mask itself: a trust-region quasi-Newton method on the log-odds of the class.

The objective is ``penalties(m) + p(m)``. The penalties are known exactly. The probability saturates: near 0 and 1 its slope says nothing
about how far one may go. Its log-odds do, so they are modelled, ``z(c + d) = z + g d + d B d / 2``, with B from Powell's symmetric Broyden
update (SR1 blew up on the small steps of noisy arithmetic). A step minimises ``penalties(c + d) + sigmoid(z(c + d))`` over
``0 <= c + d <= 1``, ``|d| <= radius``. That costs no pass: the sub-problem has T unknowns. A candidate costs a forward pass and its
gradient, a refused one too: it tells most about where the model was wrong.

Against Adam on logits: masks of 0 and 1 are ordinary points with full gradients (the slope of a sigmoid at 5 is 0.007), and the penalties
are at their minimum after a step or two instead of after hundreds.

Source: Conn, Gould and Toint 2000 (trust regions, the PSB update); Birgin, Martinez and Raydan 2000 (spectral projected gradients).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from chronolens.explain.presets import MaskSettings
from chronolens.explain.words import ON

Vector = npt.NDArray[np.float64]
GAIN = 1e-3
"""A step that promises less is not worth a pass; learning ends."""
SMALLEST_RADIUS = 0.02
CHECKED_RADIUS = 0.2
"""Converged means that the model promises less than twice ``GAIN`` within this distance of every mask value."""
ACCEPTED, POOR, GOOD = 0.05, 0.25, 0.75
CERTAIN = 1e-6
MARGIN = 0.005
ROUNDS = 100


@dataclass
class Region:
    """Where one descent is. Plain numbers only, so that it survives JSON bit for bit.

    Args:
        centre: T mask values of the best accepted point; those to evaluate first when ``total`` is None.
        radius: largest change of a mask value in the next step.
        total: objective at the centre, None before the first evaluation.
        log_odds, slope, curvature: of the class at the centre, T and T x T.
        point: candidate that is being evaluated, None while the centre is.
        gain: what the model promises for it.
    """

    centre: list[float]
    radius: float
    total: float | None = None
    log_odds: float = 0.0
    slope: list[float] = field(default_factory=list)
    curvature: list[list[float]] = field(default_factory=list)
    point: list[float] | None = None
    gain: float = 0.0


def learn(region: Region, score: float, total: float, slope: Sequence[float]) -> bool:
    """Take score, objective and slope of the point that was asked for; return False, changing nothing, when they are not finite.

    An accepted point becomes the centre. A refused one still tells how the log-odds bend on the way to it.

    Args:
        slope: derivative of the score by the T mask values.
    """
    inside = min(max(score, CERTAIN), 1.0 - CERTAIN)
    steep = np.asarray(slope) / (inside * (1.0 - inside))
    if not (math.isfinite(total) and np.isfinite(steep).all()):
        return False
    if region.point is None or region.total is None:
        region.curvature = np.zeros((len(steep), len(steep))).tolist()
    else:
        step = np.subtract(region.point, region.centre)
        length = float(np.abs(step).max())
        ratio = (region.total - total) / region.gain
        region.curvature = _updated(np.asarray(region.curvature), step, steep - np.asarray(region.slope)).tolist()
        if ratio > GOOD and length > 0.9 * region.radius:
            region.radius = min(1.0, 2.0 * region.radius)
        elif ratio < POOR:
            region.radius = length / 2.0
        if ratio <= ACCEPTED:
            region.point = None
            return True
        region.centre = region.point
    region.total, region.log_odds, region.slope, region.point = total, math.log(inside / (1.0 - inside)), steep.tolist(), None
    return True


def propose(region: Region, settings: MaskSettings) -> bool:
    """Write the next candidate; False when no step is worth a pass any more."""
    if region.radius < min(SMALLEST_RADIUS, settings.learning_rate):
        return False
    point, gain = _best_step(region, settings, region.radius)
    if gain < GAIN:
        return False
    region.point, region.gain = point.tolist(), gain
    return True


def converged(region: Region, settings: MaskSettings) -> bool:
    """Tell whether the model promises nothing worth mentioning near the centre."""
    if region.total is None or not region.slope:
        return False
    return _best_step(region, settings, CHECKED_RADIUS)[1] < 2.0 * GAIN


def _best_step(region: Region, settings: MaskSettings, radius: float) -> tuple[Vector, float]:
    """Return the best point of the model within the radius, and its gain."""
    centre, slope, bend = (np.asarray(part) for part in (region.centre, region.slope, region.curvature))
    low, high = _bounds(centre, settings)

    def model(point: Vector) -> tuple[float, Vector]:
        step = point - centre
        bent = bend @ step
        score = _sigmoid(region.log_odds + float(slope @ step) + 0.5 * float(step @ bent))
        cost, rise = _penalty(point, settings)
        return cost + score, rise + score * (1.0 - score) * (slope + bent)

    point, value = _minimise(model, centre, np.maximum(low, centre - radius), np.minimum(high, centre + radius))
    return point, model(centre)[0] - value


def _bounds(centre: Vector, settings: MaskSettings) -> tuple[Vector, Vector]:
    """Return the lowest and highest allowed mask values.

    A reverse mask keeps its runs: where a frame joins or leaves one, the objective jumps. And frames of a run stay above ``ON``. Blending a
    frame half with its mirror image destroys the order as well as reversing does, for half the penalty; a mask free to do so falls apart
    when it is thresholded, and what is left explains nothing.
    """
    low, high = np.zeros_like(centre), np.ones_like(centre)
    if settings.operator == "reverse":
        active = centre > settings.threshold
        low = np.where(active, min(max(settings.threshold, ON) + MARGIN, 1.0), low)
        high = np.where(active, high, min(settings.threshold, ON))
    return np.minimum(low, centre), np.maximum(high, centre)


def _minimise(model: Callable[[Vector], tuple[float, Vector]], start: Vector, low: Vector, high: Vector) -> tuple[Vector, float]:
    """Minimise over a box by spectral projected gradients with halving."""
    point, length = start, 1.0
    value, slope = model(point)
    for _ in range(ROUNDS):
        direction = np.clip(point - length * slope, low, high) - point
        if np.abs(direction).max() < 1e-6:
            break
        share, fall = 1.0, float(slope @ direction)
        while True:
            tried = point + share * direction
            found, rise = model(tried)
            if found <= value + 1e-4 * share * fall:
                break
            share /= 2.0
            if share < 1e-6:
                return np.clip(point, low, high), value
        step, change = tried - point, rise - slope
        product = float(step @ change)
        length = min(max(float(step @ step) / product, 1e-2), 1e2) if product > 1e-12 else 1e2
        point, value, slope = tried, found, rise
    return np.clip(point, low, high), value


def _penalty(mask: Vector, settings: MaskSettings) -> tuple[float, Vector]:
    """Return ``l1 * sum(m) + tv * TV(m)`` and its slope."""
    rise = np.full_like(mask, settings.l1)
    steps = np.diff(mask)
    if len(steps) < 2:
        return settings.l1 * float(mask.sum()), rise
    counts = np.full_like(steps, 2.0)  # differences between interior frames count twice, see objective.total_variation
    counts[[0, -1]] = 1.0
    size = np.abs(steps)
    pull = settings.tv * settings.beta * counts * size ** (settings.beta - 1.0) * np.sign(steps)
    rise[1:] += pull
    rise[:-1] -= pull
    return settings.l1 * float(mask.sum()) + settings.tv * float((counts * size**settings.beta).sum()), rise


def _updated(bend: Vector, step: Vector, change: Vector) -> Vector:
    """Return the least changed symmetric matrix that maps the step to the change of the slope."""
    rest, square = change - bend @ step, float(step @ step)
    mixed = np.outer(rest, step) / square
    updated: Vector = bend + mixed + mixed.T - float(rest @ step) / square**2 * np.outer(step, step)
    return updated


def _sigmoid(value: float) -> float:
    return 1.0 / (1.0 + math.exp(-min(max(value, -50.0), 50.0)))
