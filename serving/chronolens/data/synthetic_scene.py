"""What happens in a synthetic clip: objects, paths, camera and the interval of motion, drawn at random but free of any resolution.

World units are frame heights. At zoom 1 the frame covers x in [0, ASPECT] and y in [0, 1], y downwards.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from chronolens.data.synthetic_textures import SHAPES, TEXTURES, VARIANTS

ASPECT = 4.0 / 3.0
FPS = 12
SPLITS = ("train", "val", "test")

AWAY = "Moving something and something away from each other"
CLOSER = "Moving something and something closer to each other"
COLLIDE = "Moving something and something so they collide with each other"
PASS = "Moving something and something so they pass each other"
UP = "Moving something up"
DOWN = "Moving something down"
RIGHTWARDS = "Pushing something from left to right"
LEFTWARDS = "Pushing something from right to left"
TURN_LEFT = "Turning the camera left while filming something"
TURN_RIGHT = "Turning the camera right while filming something"
TURN_UP = "Turning the camera upwards while filming something"
TURN_DOWN = "Turning the camera downwards while filming something"
APPROACH = "Approaching something with your camera"
RETREAT = "Moving away from something with your camera"
HOLD = "Holding something"
SPIN = "Pushing something so it spins"

LABELS: tuple[str, ...] = (
    AWAY, CLOSER, COLLIDE, PASS, UP, DOWN, RIGHTWARDS, LEFTWARDS,
    TURN_LEFT, TURN_RIGHT, TURN_UP, TURN_DOWN, APPROACH, RETREAT, HOLD, SPIN,
)  # fmt: skip

_PAIRS = ((AWAY, CLOSER), (UP, DOWN), (RIGHTWARDS, LEFTWARDS), (TURN_LEFT, TURN_RIGHT), (TURN_UP, TURN_DOWN), (APPROACH, RETREAT))
OPPOSITES: dict[str, str] = {**dict(_PAIRS), **{second: first for first, second in _PAIRS}}
"""The label that a clip shows when it is played backwards.

Passing, spinning and holding look the same backwards; a collision backwards is still a meeting and a parting. They have none.
"""

Key = tuple[float, float, float]


@dataclass(frozen=True)
class Surface:
    """A texture with its palette: ``stops`` are RGB in 0..255; ``scale`` is texture pixels per world unit."""

    family: str
    variant: int
    stops: tuple[tuple[float, float, float], ...]
    scale: float
    turn: float


@dataclass(frozen=True)
class Thing:
    """An object.

    Args:
        radius: half its size in world units.
        keys: (progress, x, y) in order of progress; straight lines between them.
        turn, spin: angle in degrees at the start, and how far it turns during the motion.
        tremble: amplitude in world units of a hand's shaking.
        role: ``moving`` and ``still`` objects are in the record; ``clutter`` lies behind them and ``occluder`` in front.
    """

    shape: str
    surface: Surface
    radius: float
    keys: tuple[Key, ...]
    turn: float
    spin: float = 0.0
    tremble: float = 0.0
    role: Literal["moving", "still", "clutter", "occluder"] = "moving"

    def position(self, progress: npt.NDArray[np.float64]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Return x and y in world units for each value of progress in [0, 1]."""
        at, x, y = np.array(self.keys, dtype=np.float64).T
        return np.interp(progress, at, x), np.interp(progress, at, y)


@dataclass(frozen=True)
class Scene:
    """One clip before it is drawn.

    Args:
        frames: number of frames at ``FPS``; ``start_s`` and ``end_s`` bound the motion.
        ease: 0 moves at constant speed, 1 starts and stops gently.
        camera: centre and zoom at the start and at the end, ((x, y, zoom), (x, y, zoom)).
        shake: amplitude in world units; ``light``: amplitude of brightness drift; ``noise``: standard deviation in grey levels.
        seed: of everything that render draws (shake phases, noise).
    """

    label: str
    split: str
    frames: int
    start_s: float
    end_s: float
    ease: float
    camera: tuple[tuple[float, float, float], tuple[float, float, float]]
    background: Surface
    things: tuple[Thing, ...]
    shake: float
    light: float
    shade: float
    noise: float
    seed: int

    def progress(self, times: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Return how much of the motion is done at each time in seconds, in [0, 1]."""
        p = np.clip((times - self.start_s) / (self.end_s - self.start_s), 0.0, 1.0)
        return (1 - self.ease) * p + self.ease * p * p * (3 - 2 * p)


def _surface(rng: np.random.Generator, split: str, *, bright: float, scale: tuple[float, float]) -> Surface:
    """A random texture of the split around a mean brightness, moderate in contrast."""
    base = np.clip(bright + rng.normal(0, 30, 3), 10, 245)
    stops = np.clip(base + rng.normal(0, 45, (3, 3)) + np.array([[-25.0], [0.0], [25.0]]), 0, 255)
    family = str(rng.choice(TEXTURES[split]))
    return Surface(
        family=family,
        variant=int(rng.integers(VARIANTS)),
        stops=tuple((float(r), float(g), float(b)) for r, g, b in stops),
        scale=float(rng.uniform(*scale)),
        turn=float(rng.uniform(0, 360)),
    )


class _Stage:
    """Draws the parts of one scene from one generator, in a fixed order."""

    def __init__(self, rng: np.random.Generator, split: str) -> None:
        self.rng, self.split = rng, split
        self.dark = bool(rng.random() < 0.5)
        self.background = _surface(rng, split, bright=80 if self.dark else 175, scale=(110, 240))
        self.camera = ((ASPECT / 2, 0.5, 1.0), (ASPECT / 2, 0.5, 1.0))
        self.things: list[Thing] = []

    def thing(self, radius: tuple[float, float], keys: tuple[Key, ...], **more: float | str) -> None:
        """Add an object that stands out against the background."""
        self.things.append(self._make(self.rng.uniform(*radius), keys, 195 if self.dark else 65, "", **more))

    def _make(self, radius: float, keys: tuple[Key, ...], bright: float, shape: str, **more: float | str) -> Thing:
        rng = self.rng
        shape = shape or str(rng.choice(SHAPES[self.split]))
        surface = _surface(rng, self.split, bright=bright, scale=(250, 500))
        return Thing(shape, surface, float(radius), keys, float(rng.uniform(0, 360)), **more)  # type: ignore[arg-type]

    def clutter(self) -> None:
        """Things that belong to the backdrop, and now and then a post in front."""
        rng = self.rng
        for _ in range(int(rng.integers(2, 9))):
            x, y = rng.uniform(-0.6, ASPECT + 0.6), rng.uniform(-0.6, 1.6)
            bright = rng.uniform(40, 130) if self.dark else rng.uniform(120, 215)
            self.things.append(self._make(rng.uniform(0.06, 0.2), ((0.0, x, y),), bright, "", role="clutter"))
        if rng.random() < 0.3:
            x, y = rng.uniform(0.1, ASPECT - 0.1), rng.uniform(0.1, 0.9)
            post = self._make(rng.uniform(0.25, 0.6), ((0.0, x, y),), rng.uniform(30, 220), "post", role="occluder")
            self.things.append(post)

    def single(self, towards: tuple[int, int]) -> None:
        """One object moves along an axis, with a little drift across it."""
        rng = self.rng
        along = ASPECT if towards[0] else 1.0
        way = rng.uniform(0.32, 0.52) * along
        middle, across = rng.uniform(0.17 + way / 2, along - 0.17 - way / 2), rng.uniform(0.2, 0.8) * (1.0 if towards[0] else ASPECT)
        drift = rng.uniform(-0.05, 0.05)
        sign = sum(towards)
        ends = [(middle - sign * way / 2, across - drift), (middle + sign * way / 2, across + drift)]
        points = ends if towards[0] else [(y, x) for x, y in ends]
        keys = tuple((float(at), float(x), float(y)) for at, (x, y) in zip((0, 1), points, strict=True))
        self.thing((0.09, 0.16), keys, spin=float(rng.uniform(-25, 25)))

    def pair(self, label: str) -> None:
        """Two objects move along one line through the middle, near to horizontal."""
        rng = self.rng
        radii = rng.uniform(0.08, 0.13, 2)
        touch = 0.85 * float(radii.sum())
        far, near = touch + rng.uniform(0.35, 0.6), touch + rng.uniform(0.07, 0.14)
        gaps = {
            AWAY: [(0.0, near), (1.0, far)],
            CLOSER: [(0.0, far), (1.0, near)],
            COLLIDE: [(0.0, far), (rng.uniform(0.5, 0.62), touch * 0.92), (1.0, touch + rng.uniform(0.14, 0.28))],
            PASS: [(0.0, far), (1.0, -far * rng.uniform(0.75, 1.0))],
        }[label]
        angle = np.radians(rng.uniform(-25, 25) + (180 if rng.random() < 0.5 else 0))
        lane = rng.uniform(-0.06, 0.06) if label == PASS else 0.0
        x, y = ASPECT / 2 + rng.uniform(-0.08, 0.08), 0.5 + rng.uniform(-0.12, 0.12)
        share = rng.uniform(0.35, 0.65)
        for side, part, radius in ((-1, share, radii[0]), (1, 1 - share, radii[1])):
            shift = 2 * (part - 0.5) * 0.5 * (far + near) * side * -1  # keeps the pair centred although one moves more
            keys = tuple(
                (float(at), float(x + np.cos(angle) * (side * part * gap + shift / 2) - np.sin(angle) * lane * side),
                 float(y + np.sin(angle) * (side * part * gap + shift / 2) + np.cos(angle) * lane * side))
                for at, gap in gaps
            )  # fmt: skip
            self.thing((radius, radius), keys)

    def rest(self, *, count: int, spread: float, radius: tuple[float, float] = (0.1, 0.17), **more: float | str) -> None:
        """Objects that keep their place in the world."""
        for _ in range(count):
            x, y = ASPECT / 2 + self.rng.uniform(-spread, spread), 0.5 + self.rng.uniform(-spread, spread) * 0.8
            self.thing(radius, ((0.0, float(x), float(y)),), **more)

    def turn_camera(self, towards: tuple[int, int]) -> None:
        """The camera pans; the objects stay in the world and so cross the frame the other way."""
        rng = self.rng
        way = rng.uniform(0.35, 0.65)
        x, y = ASPECT / 2 + rng.uniform(-0.06, 0.06), 0.5 + rng.uniform(-0.06, 0.06)
        drift = rng.uniform(-0.05, 0.05, 2) * (1 - np.abs(towards))
        step = (np.array(towards) * way + drift) / 2
        self.camera = ((float(x - step[0]), float(y - step[1]), 1.0), (float(x + step[0]), float(y + step[1]), 1.0))
        self.rest(count=int(rng.integers(1, 3)), spread=0.3, role="still")

    def zoom(self, *, inwards: bool) -> None:
        """The camera goes towards the object or away from it."""
        rng = self.rng
        low = rng.uniform(0.72, 0.95)
        x, y = ASPECT / 2 + rng.uniform(-0.06, 0.06, 2), 0.5 + rng.uniform(-0.06, 0.06, 2)
        ends = [(float(x[0]), float(y[0]), float(low)), (float(x[1]), float(y[1]), float(low * rng.uniform(1.5, 2.1)))]
        self.camera = (ends[0], ends[1]) if inwards else (ends[1], ends[0])
        self.rest(count=1, spread=0.12, role="still")

    def play(self, label: str) -> None:
        """Set objects and camera for a label."""
        if label in (AWAY, CLOSER, COLLIDE, PASS):
            self.pair(label)
        elif label in _SINGLE:
            self.single(_SINGLE[label])
        elif label in _TURNS:
            self.turn_camera(_TURNS[label])
        elif label in (APPROACH, RETREAT):
            self.zoom(inwards=label == APPROACH)
        elif label == SPIN:
            spin = self.rng.uniform(150, 400) * (1 if self.rng.random() < 0.5 else -1)
            self.rest(count=1, spread=0.25, radius=(0.14, 0.22), spin=float(spin))
        else:
            self.rest(count=1, spread=0.25, tremble=float(self.rng.uniform(0.002, 0.006)), role="still")


_SINGLE = {UP: (0, -1), DOWN: (0, 1), RIGHTWARDS: (1, 0), LEFTWARDS: (-1, 0)}
_TURNS = {TURN_LEFT: (-1, 0), TURN_RIGHT: (1, 0), TURN_UP: (0, -1), TURN_DOWN: (0, 1)}


def draw_scene(label: str, split: str, seed: tuple[int, ...]) -> Scene:
    """Draw a random scene for a label; the same arguments give the same scene.

    Args:
        label: one of ``LABELS``.
        split: ``train``, ``val`` or ``test``; decides the texture families and shapes.
        seed: whole numbers of at least 0.
    """
    rng = np.random.default_rng(seed)
    stage = _Stage(rng, split)
    stage.play(label)
    stage.clutter()
    frames = int(rng.integers(36, 49))
    length = frames / FPS
    moving = rng.uniform(0.45, 0.8) * length
    start = rng.uniform(0.06, 0.94 - moving / length) * length
    return Scene(
        label=label,
        split=split,
        frames=frames,
        start_s=float(start),
        end_s=float(start + moving),
        ease=float(rng.uniform(0, 0.8)),
        camera=stage.camera,
        background=stage.background,
        things=tuple(stage.things),
        shake=float(rng.uniform(0.0, 0.006)),
        light=float(rng.uniform(0.0, 0.12)),
        shade=float(rng.uniform(0.0, 0.35)),
        noise=float(rng.uniform(1.0, 6.0)),
        seed=int(rng.integers(2**31)),
    )
