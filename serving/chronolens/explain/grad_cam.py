"""Grad-CAM for video: where and when a network saw what speaks for a class.

Two weight rules and two targets are published; all four combinations are offered. Where the head is an average of positions followed by a
linear layer, the gradient has a closed form and the heat map costs no backward pass.

Source: Selvaraju et al. 2017, eq. 1-2; Mänttäri et al. 2020, eq. 2; both public versions of the authors' code.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from chronolens.errors import OptionsError, UnknownLayerError
from chronolens.explain.capture import capture
from chronolens.explain.protocol import Passes, VideoModel, class_indices, frozen, gradients, ordinary, require_finite

WeightRule = Literal["per_frame", "per_clip"]
Target = Literal["logit", "probability"]
WEIGHT_RULES: tuple[WeightRule, ...] = ("per_frame", "per_clip")
TARGETS: tuple[Target, ...] = ("logit", "probability")


@dataclass(frozen=True)
class HeatMaps:
    """Heat maps of a batch of clips.

    Args:
        logits: (N, K).
        target: (N,) int64, the class explained for each clip.
        maps: layer name -> (N, T', H', W'), after ReLU, unscaled.
        passes: what it cost.
    """

    logits: Tensor
    target: Tensor
    maps: dict[str, Tensor]
    passes: Passes


def grad_cam(
    model: VideoModel,
    clip: Tensor,
    target: int | Tensor | None,
    *,
    layer: str | None = None,
    weights: WeightRule = "per_frame",
    of: Target = "logit",
) -> Tensor:
    """Return the saliency of one class.

    Args:
        model: any video model.
        clip: (N, C, T, H, W) float32, prepared by ``model.spec``.
        target: class index in [0, num_classes), one for all clips or (N,); None for the predicted class of each.
        layer: dotted module name or name of a stage; the model's own choice when None, that of its first pathway if it has several.
        weights: ``per_frame``, one weight per channel and time step (the published formula), or ``per_clip``, one per channel.
        of: differentiate the ``logit`` or the softmax ``probability``, whose gradient vanishes when it is near 1.

    Returns:
        (N, T', H', W') float32 in [0, 1], divided by the maximum of each clip, so frames can be compared.

    Raises:
        UnknownLayerError: no such module; the message lists the nearest names.
        UnknownClassError: the target is outside [0, num_classes).
        OptionsError: unknown weight rule or target.
        NonFiniteResultError: the network returned NaN or infinity.

    Source: Selvaraju et al. 2017, eq. 1-2; Mänttäri et al. 2020, eq. 2.
    """
    found = heat_maps(model, clip, target, layers=(layer or model.default_layers[0],), weights=weights, of=of)
    return scale(next(iter(found.maps.values())))


def heat_maps(
    model: VideoModel,
    clip: Tensor,
    target: int | Tensor | None,
    *,
    layers: Sequence[str] = ("default",),
    weights: WeightRule = "per_frame",
    of: Target = "logit",
) -> HeatMaps:
    """Return unscaled heat maps of several layers and the prediction, out of one forward pass.

    When the logits are linear in all layers asked for there is no backward pass; otherwise there is one, which ends at the earliest of the
    layers. Parameters never get gradients.

    Args:
        model, clip, target, weights, of: as for :func:`grad_cam`.
        layers: see :func:`resolve_layers`.

    Returns:
        HeatMaps; its ``maps`` bear the full layer names, in the order asked for.

    Raises:
        UnknownLayerError, UnknownClassError, OptionsError, NonFiniteResultError: as for :func:`grad_cam`.
    """
    _check_options(clip, layers, weights, of)
    names = resolve_layers(model, layers)
    with gradients(), frozen(model):
        with capture(model, names, gradients=True) as taps:
            logits = model(ordinary(clip))
            tapped = [taps[name] for name in names]
        activations = [_channels_first(model, name, values).detach() for name, values in zip(names, tapped, strict=True)]
        indices = class_indices(logits.detach(), target)
        require_finite(logits, "scores")
        heads = [model.linear_head(name, *values.shape[2:]) for name, values in zip(names, activations, strict=True)]
        linear = [head for head in heads if head is not None]
        if len(linear) == len(names):
            slopes, passes = _known_slopes(logits.detach(), indices, linear, of), Passes(forward=len(clip))
        else:
            slopes, passes = _slopes(model, logits, indices, names, tapped, of), Passes(len(clip), len(clip))
        maps = {name: _weighted(a, slope, weights) for name, a, slope in zip(names, activations, slopes, strict=True)}
    for values in maps.values():
        require_finite(values, "heat maps")
    return HeatMaps(logits.detach(), indices, maps, passes)


def resolve_layers(model: VideoModel, layers: Sequence[str]) -> list[str]:
    """Return full module names, each once, in the order asked for.

    Args:
        model: any video model.
        layers: dotted module names; names of stages, which stand for one module a pathway; ``default`` for the model's own choice, and
            ``all`` for every stage.
    """
    stages = getattr(model, "stages", {})
    short = {**stages, "default": model.default_layers, "all": tuple(name for names in stages.values() for name in names)}
    return list(dict.fromkeys(name for layer in layers for name in short.get(layer, (layer,))))


def scale(maps: Tensor) -> Tensor:
    """Divide the maps of each clip by their maximum, once per clip so that frames stay comparable.

    Args:
        maps: (N, T', H', W'), values >= 0.

    Returns:
        The same shape in [0, 1]; maps of zeros stay zeros.
    """
    top = maps.amax(dim=(1, 2, 3), keepdim=True)
    return maps / torch.where(top > 0, top, torch.ones_like(top))


def _known_slopes(logits: Tensor, indices: Tensor, heads: list[tuple[Tensor, Tensor]], of: Target) -> list[Tensor]:
    """Return the gradient (N, K, T', h or 1, w or 1) by layers that the logits are linear in, without a backward pass.

    With logits ``z_c = sum_k w_ck sum_p share_p A_kp`` (plus what other layers add) the gradient is ``share_p w_ck`` for the logit and
    ``share_p p_c (w_ck - sum_j p_j w_jk)`` for the probability.
    """
    slopes = []
    scores = torch.softmax(logits, dim=1)
    for matrix, share in ((matrix.detach(), share.detach()) for matrix, share in heads):
        slope = matrix[indices]
        if of == "probability":
            slope = scores.gather(1, indices[:, None]) * (slope - scores @ matrix)
        slopes.append(slope[:, :, None, None, None] * share)
    return slopes


def _slopes(model: VideoModel, logits: Tensor, indices: Tensor, names: list[str], tapped: list[Tensor], of: Target) -> list[Tensor]:
    """Return the gradient by tapped layers, (N, K, T', h, w) each, by one backward pass to the earliest of them."""
    chosen = torch.softmax(logits, dim=1) if of == "probability" else logits
    total = chosen.gather(1, indices[:, None]).sum()  # rows are independent, so one sum gives every clip its own gradient
    found = torch.autograd.grad(total, tapped, allow_unused=True) if total.requires_grad else [None] * len(names)
    slopes = []
    for name, slope in zip(names, found, strict=True):
        if slope is None:
            raise UnknownLayerError(f"The scores do not depend on layer {name!r}.", pointer="/gradcam/layers")
        slopes.append(slope.transpose(1, channel_axis(model, name)))
    return slopes


def _weighted(activation: Tensor, slope: Tensor, weights: WeightRule) -> Tensor:
    """Return ``ReLU(sum_k w_kt A_kt)`` (N, T', H', W'); w is the mean gradient over h, w (per frame) or over t, h, w (per clip)."""
    per_step = slope.mean(dim=(3, 4))
    if weights == "per_clip":
        per_step = per_step.mean(dim=2, keepdim=True).expand_as(per_step)
    return torch.relu(torch.einsum("nkt,nkthw->nthw", per_step, activation))


def channel_axis(model: VideoModel, layer: str) -> int:
    """Return the channel axis of a layer's five-dimensional output, as the model declares it."""
    return 2 if layer in getattr(model, "time_first_layers", ()) else 1


def _channels_first(model: VideoModel, layer: str, output: Tensor) -> Tensor:
    if output.ndim != 5:
        raise UnknownLayerError(
            f"Layer {layer!r} returns {output.ndim} dimensions; a heat map needs clip, channel, time, row and column.",
            pointer="/gradcam/layers",
        )
    return output.transpose(1, channel_axis(model, layer))


def _check_options(clip: Tensor, layers: Sequence[str], weights: str, of: str) -> None:
    if clip.ndim != 5:
        raise ValueError(f"clip must be (N, C, T, H, W), not of shape {tuple(clip.shape)}")
    if not layers:
        raise OptionsError("At least one layer is needed.", pointer="/gradcam/layers")
    if weights not in WEIGHT_RULES:
        raise OptionsError(f"Unknown weight rule {str(weights)[:40]!r}.", pointer="/gradcam/weights", allowed=WEIGHT_RULES)
    if of not in TARGETS:
        raise OptionsError(f"Unknown target {str(of)[:40]!r}.", pointer="/gradcam/of", allowed=TARGETS)
