"""Proof that an own network keeps what the engine relies on, so that what is missing is named before anything is served."""

from __future__ import annotations

import torch
from torch import Tensor

from chronolens.errors import ChronolensError, PluginError
from chronolens.explain import grad_cam
from chronolens.explain.capture import capture
from chronolens.explain.protocol import gradients
from chronolens.golden import golden_frames
from chronolens.models.base import VideoNetwork
from chronolens.models.plugged import Plugged
from chronolens.plugins import OwnModel
from chronolens.video.prepare import prepare

TOLERANCE = 1e-3
"""Largest difference of a logit, relative to the largest logit, that kernels for other batch sizes explain in float32."""


def proven(own: OwnModel, device: torch.device) -> VideoNetwork:
    """Return the network of an own model as one of ours, once it has answered two golden clips in several ways.

    Args:
        own: its network is put on the device, into evaluation mode, and its parameters are frozen.
        device: where it will compute.

    Raises:
        PluginError: the message says what is missing.
    """
    if isinstance(own.network, VideoNetwork):
        if own.layers:
            raise _wrong(own, "its network is a VideoNetwork, which names its layers itself; leave layers out")
        network: VideoNetwork = own.network
    else:
        network = Plugged(own.network, {})
    network.to(device).eval().requires_grad_(False)
    clips = torch.cat([torch.from_numpy(prepare(golden_frames(own.clip, seed), own.clip)) for seed in range(2)]).to(device)
    _require_answers(own, network, clips)
    _require_gradient(own, network, clips)
    if isinstance(network, Plugged) and own.layers:
        default = own.default_layer or own.layers[-1]
        network = Plugged(own.network, _cells(own, network, clips), default, own.time_first_layers).eval()
    if network.default_layers:
        try:
            grad_cam.heat_maps(network, clips, None, layers=["default", "all"] if network.stages else ["default"])
        except ChronolensError as error:
            raise _wrong(own, f"Grad-CAM fails: {error.detail}") from error
    return network


def _require_answers(own: OwnModel, network: VideoNetwork, clips: Tensor) -> None:
    """Ask twice together and once each alone: what depends on chance or on the other clips cannot be explained."""
    together, again = _logits(own, network, clips), _logits(own, network, clips)
    alone = torch.cat([_logits(own, network, clip[None]) for clip in clips])
    limit = TOLERANCE * max(1.0, float(together.abs().max()))
    if float((together - again).abs().max()) > limit:
        raise _wrong(
            own, "its forward answers the same clip differently each time; is there dropout that evaluation mode does not turn off?"
        )
    if float((together - alone).abs().max()) > limit:
        raise _wrong(
            own, "its logits for a clip depend on the other clips of the batch; does it normalise by the batch in evaluation mode?"
        )


def _logits(own: OwnModel, network: VideoNetwork, clips: Tensor) -> Tensor:
    shape, wanted = tuple(clips.shape), (len(clips), len(own.classes))
    try:
        with torch.no_grad():
            logits = network(clips)
    except Exception as error:  # whatever somebody else's forward does
        lines = str(error).strip().splitlines() or [""]
        raise _wrong(
            own, f"its forward does not take clips (N, 3, T, H, W) of shape {shape}: {type(error).__name__}: {lines[0][:300]}"
        ) from error
    if not isinstance(logits, Tensor):
        raise _wrong(own, f"its forward returns a {type(logits).__name__}, not a tensor of logits {wanted}")
    if tuple(logits.shape) != wanted:
        raise _wrong(
            own, f"its forward returns {tuple(logits.shape)} for {len(clips)} clips, not {wanted}, one logit for each of its classes"
        )
    if logits.dtype != torch.float32 or not bool(torch.isfinite(logits).all()):
        raise _wrong(
            own, f"its logits of the golden clip are not all finite float32 numbers but {logits.dtype}".removesuffix(" but torch.float32")
        )
    return logits


def _require_gradient(own: OwnModel, network: VideoNetwork, clips: Tensor) -> None:
    """Masks are learned by the gradient of the scores by the clip."""
    with gradients():
        given = clips.clone().requires_grad_()
        total = network(given).sum()
        slope = torch.autograd.grad(total, given, allow_unused=True)[0] if total.requires_grad else None
    if slope is None or not bool(torch.isfinite(slope).all()):
        raise _wrong(own, "its logits have no finite gradient by the clip; is there a detach or no_grad in its forward?")


def _cells(own: OwnModel, network: VideoNetwork, clips: Tensor) -> dict[str, tuple[int, int, int]]:
    """Return the size (T', H', W') of each layer that the model names."""
    found = {}
    for layer in own.layers:
        try:
            with torch.no_grad(), capture(network, [layer]) as taps:
                network(clips)
            shape = tuple(taps[layer].shape)
        except ChronolensError as error:
            raise _wrong(own, error.detail) from error
        if len(shape) != 5 or shape[0] != len(clips):
            raise _wrong(own, f"its layer {layer!r} returns {shape}; a heat map needs (N, C, T', H', W') for {len(clips)} clips")
        steps = shape[1] if layer in own.time_first_layers else shape[2]
        found[layer] = (steps, shape[3], shape[4])
    return found


def _wrong(own: OwnModel, what: str) -> PluginError:
    return PluginError(f"the model {own.name}: {what}")
