"""What the explanation methods ask of a model, and how they count what they cost it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from chronolens.errors import NonFiniteResultError, UnknownClassError


class VideoModel(Protocol):
    """A classifier of clips; every ``nn.Module`` with the members below fits.

    ``model(clip)`` takes (N, C, T, H, W), prepared by the model's clip spec, and returns logits (N, K). A row must not depend on the
    other rows. A model whose layers return (N, T, C, H, W) names them in an optional attribute ``time_first_layers: frozenset[str]``;
    all other layers return (N, C, T', H', W'). Axes are never guessed from shapes. A model whose layers have short names lists them in an
    optional attribute ``stages: Mapping[str, tuple[str, ...]]``, each name standing for one module or, with pathways, for one of each.
    """

    default_layers: tuple[str, ...]

    def __call__(self, clip: Tensor) -> Tensor:
        """Return logits (N, K)."""

    def linear_head(self, layer: str, steps: int, height: int, width: int) -> tuple[Tensor, Tensor] | None:
        """Return weights (K, C) and position shares (T', H', W') when logits are linear in a layer, else None."""

    def named_modules(self) -> Iterator[tuple[str, nn.Module]]:
        """As in ``nn.Module``."""

    def modules(self) -> Iterator[nn.Module]:
        """As in ``nn.Module``."""

    def parameters(self) -> Iterator[nn.Parameter]:
        """As in ``nn.Module``."""


@dataclass(frozen=True)
class Passes:
    """Number of passes of one clip through the network; a batch of four counts four.

    Args:
        forward: predictions.
        input_gradient: backward passes for the gradient of activations or input.
        weight_gradient: backward passes for the gradient of weights; the methods of this package never need one.
    """

    forward: int = 0
    input_gradient: int = 0
    weight_gradient: int = 0

    @property
    def total(self) -> int:
        """All passes together; forward, input gradient and weight gradient cost about the same."""
        return self.forward + self.input_gradient + self.weight_gradient

    def __add__(self, other: Passes) -> Passes:
        """Add the counts."""
        return Passes(
            self.forward + other.forward,
            self.input_gradient + other.input_gradient,
            self.weight_gradient + other.weight_gradient,
        )

    def __sub__(self, other: Passes) -> Passes:
        """Return the counts since ``other``."""
        return self + Passes(-other.forward, -other.input_gradient, -other.weight_gradient)

    def to_json(self) -> dict[str, int]:
        """Return the three counts and their sum under their own names."""
        return {**asdict(self), "total": self.total}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Passes:
        """Undo :meth:`to_json`."""
        return cls(int(data["forward"]), int(data["input_gradient"]), int(data["weight_gradient"]))


@contextmanager
def frozen(model: VideoModel) -> Iterator[None]:
    """Put the model into eval mode without parameter gradients, and back into its former state afterwards.

    A served model is in that state already; then nothing is written, so that several requests may share it.
    """
    training = [module for module in model.modules() if module.training]
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for module in training:
        module.training = False
    for parameter in trainable:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for module in training:
            module.training = True
        for parameter in trainable:
            parameter.requires_grad_(True)


@contextmanager
def gradients() -> Iterator[None]:
    """Allow gradients even inside a server that calls us under ``no_grad`` or ``inference_mode``."""
    with torch.inference_mode(False), torch.enable_grad():
        yield


def ordinary(clip: Tensor) -> Tensor:
    """Return the clip as a tensor that autograd may save; a tensor made under ``inference_mode`` is copied."""
    return clip.clone() if clip.is_inference() else clip


def class_indices(logits: Tensor, target: int | Tensor | None) -> Tensor:
    """Return one class index per clip.

    Args:
        logits: (N, K).
        target: one index for all clips, (N,) indices, or None for the class with the highest logit of each clip.

    Returns:
        (N,) int64 on the device of the logits.

    Raises:
        UnknownClassError: an index outside [0, K); negative indices do not count from the end.
        ValueError: a tensor of another shape.
    """
    clips, classes = logits.shape
    if target is None:
        return logits.argmax(dim=1)
    indices = torch.as_tensor(target, dtype=torch.int64, device=logits.device)
    if indices.ndim == 0:
        indices = indices.repeat(clips)
    if indices.shape != (clips,):
        raise ValueError(f"target must be one index or {clips}, not a tensor of shape {tuple(indices.shape)}")
    wrong = indices[(indices < 0) | (indices >= classes)]
    if wrong.numel():
        observed = int(wrong[0])
        raise UnknownClassError(
            f"Class {observed} does not exist; the model has classes 0 to {classes - 1}.",
            pointer="/target",
            limit=classes - 1,
            observed=observed,
        )
    return indices


def require_finite(values: Tensor, what: str) -> None:
    """Raise NonFiniteResultError when a value is NaN or infinite; ``what`` names it in the message."""
    if not bool(torch.isfinite(values).all()):
        raise NonFiniteResultError(f"The network returned {what} that are not finite for this clip.")
