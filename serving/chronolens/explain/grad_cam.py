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
from chronolens.explain.capture import Taps, capture
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
        layer: dotted module name; the model's own choice when None.
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
    found = heat_maps(model, clip, target, layers=(layer or "default",), weights=weights, of=of)
    (maps,) = found.maps.values()
    return scale(maps)


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

    When only the model's default layer is asked for and its head is linear there is no backward pass; otherwise there is one, which ends
    at the earliest of the layers. Parameters never get gradients.

    Args:
        model, clip, target, weights, of: as for :func:`grad_cam`.
        layers: dotted module names; ``default`` stands for the model's own choice.

    Returns:
        HeatMaps; its ``maps`` bear the full layer names, in the order asked for.

    Raises:
        UnknownLayerError, UnknownClassError, OptionsError, NonFiniteResultError: as for :func:`grad_cam`.
    """
    _check_options(clip, layers, weights, of)
    names = list(dict.fromkeys(model.default_layer if name == "default" else name for name in layers))
    with gradients(), frozen(model):
        if names == [model.default_layer]:
            closed = _closed_form(model, clip, target, weights, of)
            if isinstance(closed, HeatMaps):
                return closed
        return _general(model, ordinary(clip), target, names, (weights, of))


def scale(maps: Tensor) -> Tensor:
    """Divide the maps of each clip by their maximum, once per clip so that frames stay comparable.

    Args:
        maps: (N, T', H', W'), values >= 0.

    Returns:
        The same shape in [0, 1]; maps of zeros stay zeros.
    """
    top = maps.amax(dim=(1, 2, 3), keepdim=True)
    return maps / torch.where(top > 0, top, torch.ones_like(top))


def _closed_form(model: VideoModel, clip: Tensor, target: int | Tensor | None, weights: WeightRule, of: Target) -> HeatMaps | None:
    """Grad-CAM without a backward pass; None when the model's head is not linear, before any pass is spent.

    With logits ``z_c = sum_k w_ck sum_p share_p A_kp`` the gradient is ``share_p w_ck`` for the logit and
    ``share_p p_c (w_ck - sum_j p_j w_jk)`` for the probability.
    """
    if model.linear_head(1, 1, 1) is None:
        return None
    with torch.no_grad(), capture(model, [model.default_layer]) as taps:
        logits = model(clip)
        activations = _channels_first(model, model.default_layer, taps)
        indices = class_indices(logits, target)
        require_finite(logits, "scores")
        head = model.linear_head(*activations.shape[2:])
        if head is None:
            raise UnknownLayerError(f"Layer {model.default_layer!r} has no linear head for a map of this size.")
        matrix, share = (part.detach() for part in head)
        slope = matrix[indices]
        if of == "probability":
            scores = torch.softmax(logits, dim=1)
            slope = scores.gather(1, indices[:, None]) * (slope - scores @ matrix)
        step = share.mean(dim=(1, 2)) if weights == "per_frame" else share.mean().expand(len(share))
        maps = torch.relu(torch.einsum("nk,nkthw->nthw", slope, activations) * step[:, None, None])
    require_finite(maps, "heat maps")
    return HeatMaps(logits, indices, {model.default_layer: maps}, Passes(forward=len(clip)))


def _general(model: VideoModel, clip: Tensor, target: int | Tensor | None, names: list[str], rule: tuple[WeightRule, Target]) -> HeatMaps:
    """Grad-CAM by one backward pass to the earliest tapped layer."""
    weights, of = rule
    with capture(model, names, gradients=True) as taps:
        logits = model(clip)
        tapped = [taps[name] for name in names]
    activations = [_channels_first(model, name, taps).detach() for name in names]
    indices = class_indices(logits.detach(), target)
    require_finite(logits, "scores")
    chosen = torch.softmax(logits, dim=1) if of == "probability" else logits
    total = chosen.gather(1, indices[:, None]).sum()  # rows are independent, so one sum gives every clip its own gradient
    if not total.requires_grad:
        raise UnknownLayerError(f"The scores do not depend on layer {names[0]!r}.", pointer="/gradcam/layers")
    slopes = torch.autograd.grad(total, tapped, allow_unused=True)
    maps: dict[str, Tensor] = {}
    for name, activation, slope in zip(names, activations, slopes, strict=True):
        if slope is None:
            raise UnknownLayerError(f"The scores do not depend on layer {name!r}.", pointer="/gradcam/layers")
        maps[name] = _weighted(activation, slope.transpose(1, channel_axis(model, name)), weights)
        require_finite(maps[name], "heat maps")
    return HeatMaps(logits.detach(), indices, maps, Passes(forward=len(clip), input_gradient=len(clip)))


def _weighted(activation: Tensor, slope: Tensor, weights: WeightRule) -> Tensor:
    """Return ``ReLU(sum_k w_kt A_kt)`` (N, T', H', W'); w is the mean gradient over h, w (per frame) or over t, h, w (per clip)."""
    per_step = slope.mean(dim=(3, 4))
    if weights == "per_clip":
        per_step = per_step.mean(dim=2, keepdim=True).expand_as(per_step)
    return torch.relu(torch.einsum("nkt,nkthw->nthw", per_step, activation))


def channel_axis(model: VideoModel, layer: str) -> int:
    """Return the channel axis of a layer's five-dimensional output, as the model declares it."""
    return 2 if layer in getattr(model, "time_first_layers", ()) else 1


def _channels_first(model: VideoModel, layer: str, taps: Taps) -> Tensor:
    output = taps[layer]
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
