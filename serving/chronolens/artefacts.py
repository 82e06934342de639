"""The files of an explanation: videos, filmstrip, arrays. Takes arrays, writes files; every name has one writer."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from chronolens.clips import CellGrid, DecodedClip, Frames
from chronolens.render.film import filmstrip
from chronolens.render.layer_grid import FILM_TILE, layer_film, layer_grid
from chronolens.render.overlay import (
    Heat,
    Window,
    apply_matrix,
    expand_steps,
    gradcam_frames,
    heat_shares,
    lay_on_clip,
    on_picture,
    unit_range,
)
from chronolens.render.panel import PanelText, panel_frames
from chronolens.render.strip import masked_frames
from chronolens.video.encode import write_h264

Array = npt.NDArray[Any]
MEDIA_TYPES = {".mp4": "video/mp4", ".png": "image/png", ".npz": "application/zip"}


@dataclass(frozen=True)
class Picture:
    """What there is to show of one explained clip.

    Args:
        clip: the sampled frames at source size.
        label: of the explained class.
        scores: soft scores of that class by name, None where not computed.
        class_scores: (K,) softmax probabilities of all classes.
        maps: layer name to its unscaled map (T', H', W').
        grids: layer name to where its cells lie.
        titles: layer name to its stage (or the layer itself) and its pathway, if it has one.
        drawn: which maps the panel, the strip and the heat-map film show.
        input_size: height and width of the model's input.
        window: part of the clip's picture that the model saw.
        masks: operator to its (T,) values in [0, 1].
        perturbations: operator to its (T, T) matrix.
    """

    clip: DecodedClip
    label: str
    scores: Mapping[str, float | None]
    class_scores: Array
    maps: Mapping[str, Array]
    grids: Mapping[str, CellGrid]
    titles: Mapping[str, tuple[str, str | None]]
    drawn: Sequence[str]
    input_size: tuple[int, int]
    window: Window
    masks: Mapping[str, Array]
    perturbations: Mapping[str, Array]

    @cached_property
    def heats(self) -> list[Heat]:
        """All maps as they are drawn."""
        return [self._heat(layer) for layer in self.maps]

    @property
    def chosen(self) -> list[Heat]:
        """The maps of ``drawn``."""
        return [heat for layer, heat in zip(self.maps, self.heats, strict=True) if layer in self.drawn]

    def _heat(self, layer: str) -> Heat:
        maps, grid, count = self.maps[layer], self.grids[layer], len(self.clip.frames)
        laid = on_picture(lay_on_clip(unit_range(maps), grid, *self.input_size), self.window, *self.clip.frames.shape[1:3])
        if layer not in self.drawn and max(laid.shape[1:]) > FILM_TILE:  # a tile of the grid is no larger, and there may be many layers
            size = tuple(max(1, round(side * FILM_TILE / max(laid.shape[1:]))) for side in (laid.shape[2], laid.shape[1]))
            laid = np.stack([cv2.resize(one, size, interpolation=cv2.INTER_AREA) for one in laid])
        seen = np.ones(count, dtype=np.bool_) if grid.frames is None else np.isin(np.arange(count), grid.frames)
        return Heat(*self.titles[layer], expand_steps(laid, count, grid), heat_shares(expand_steps(maps, count, grid)), seen)

    def perturbed(self, operator: str) -> Frames:
        """Return the clip (T, H, W, 3) under the learned mask of one operator."""
        return apply_matrix(self.clip.frames, self.perturbations[operator])


def write_artefacts(folder: Path, names: Iterable[str], picture: Picture) -> list[dict[str, Any]]:
    """Write the files named and return ``name``, ``media_type``, ``size_bytes`` and ``sha256`` of each.

    The same input gives the same bytes with the same library versions.
    """
    facts = []
    for name in names:
        path = folder / name
        _WRITERS[name](path, picture)
        body = path.read_bytes()
        digest = hashlib.sha256(body).hexdigest()
        facts.append({"name": name, "media_type": MEDIA_TYPES[path.suffix], "size_bytes": len(body), "sha256": digest})
    return facts


def _panel(path: Path, picture: Picture) -> None:
    operator = next(iter(picture.masks), None)
    clip, scores = picture.clip, picture.scores
    names = {"freeze": "frozen", "reverse": "reversed"}
    shown = {"frozen": "freeze", "frozen frames reversed": "reverse", "reversed (own mask)": "reverse_learned"}
    details = [f"{words}: {scores[name]:.3f}" for words, name in shown.items() if scores.get(name) is not None]
    text = PanelText(
        headline=_headline(picture),
        details=details,
        titles=("original", f"{names[operator]} where the mask is on" if operator else ""),
    )
    perturbed = picture.perturbed(operator) if operator else None
    mask = picture.masks[operator] if operator else None
    write_h264(path, panel_frames(clip.frames, picture.chosen, perturbed, mask, text, clip.timestamps_s), clip.timestamps_s)


def _gradcam(path: Path, picture: Picture) -> None:
    write_h264(path, gradcam_frames(picture.clip.frames, picture.chosen), picture.clip.timestamps_s)


def _layer_film(path: Path, picture: Picture) -> None:
    film = layer_film(picture.clip.frames, picture.heats, headline=_headline(picture))
    write_h264(path, film, picture.clip.timestamps_s)


def _layer_grid(path: Path, picture: Picture) -> None:
    clip = picture.clip
    _write_png(path, layer_grid(clip.frames, picture.heats, clip.indices, clip.timestamps_s, headline=_headline(picture)))


def _headline(picture: Picture) -> str:
    return f"{picture.label}  {picture.scores['original']:.3f}"


def _masked(operator: str) -> Callable[[Path, Picture], None]:
    def write(path: Path, picture: Picture) -> None:
        write_h264(path, masked_frames(picture.perturbed(operator), picture.masks[operator]), picture.clip.timestamps_s)

    return write


def _strip(path: Path, picture: Picture) -> None:
    clip = picture.clip
    rows = (picture.chosen, picture.masks)
    _write_png(path, filmstrip(clip.frames, *rows, clip.indices, clip.timestamps_s, headline=_headline(picture)))


def _write_png(path: Path, image: Frames) -> None:
    encoded, body = cv2.imencode(".png", image[:, :, ::-1])
    if not encoded:
        raise RuntimeError("OpenCV could not encode a PNG")
    path.write_bytes(body.tobytes())


def _arrays(path: Path, picture: Picture) -> None:
    clip = picture.clip
    arrays = {"frame": clip.indices, "timestamp_s": clip.timestamps_s, "class_scores": picture.class_scores}
    arrays |= {f"heat_map.{layer}": values for layer, values in picture.maps.items()}
    arrays |= {f"mask.{operator}": values for operator, values in picture.masks.items()}
    arrays |= {f"perturbation.{operator}": values for operator, values in picture.perturbations.items()}
    with path.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **arrays)


_WRITERS: dict[str, Callable[[Path, Picture], None]] = {
    "panel.mp4": _panel,
    "gradcam.mp4": _gradcam,
    "layers.mp4": _layer_film,
    "layers.png": _layer_grid,
    "freeze.mp4": _masked("freeze"),
    "reverse.mp4": _masked("reverse"),
    "arrays.npz": _arrays,
    "strip.png": _strip,
}
