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
from chronolens.plugins import OwnModel, words
from chronolens.video.prepare import prepare

SUM_TOLERANCE = 1e-4
"""How far from 1 rows that are probabilities may sum."""

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
    if bool((together >= 0).all()) and float((together.sum(1) - 1).abs().max()) <= SUM_TOLERANCE:
        raise _wrong(own, "its forward returns probabilities, not logits; leave the softmax at its end out")


def _logits(own: OwnModel, network: VideoNetwork, clips: Tensor) -> Tensor:
    shape, wanted, before = tuple(clips.shape), (len(clips), len(own.classes)), clips.clone()
    try:
        with torch.no_grad():
            logits = network(clips)
    except (Exception, SystemExit) as error:  # whatever somebody else's forward does
        raise _wrong(own, f"its forward does not take clips (N, 3, T, H, W) of shape {shape}: {words(error)}") from error
    if not torch.equal(clips, before):
        raise _wrong(own, "its forward changes the clip that it is given in place; let it work on a copy")
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
    try:
        with gradients():
            given = clips.clone().requires_grad_()
            total = network(given).sum()
            slope = torch.autograd.grad(total, given, allow_unused=True)[0] if total.requires_grad else None
    except (Exception, SystemExit) as error:  # whatever somebody else's forward does
        raise _wrong(own, f"its logits have no gradient by the clip: {words(error)}") from error
    if slope is None or not bool(torch.isfinite(slope).all()):
        raise _wrong(own, "its logits have no finite gradient by the clip; is there a detach or no_grad in its forward?")


def _cells(own: OwnModel, network: VideoNetwork, clips: Tensor) -> dict[str, tuple[int, int, int]]:
    """Return the size (T', H', W') of each layer that the model names."""
    found, modules = {}, dict(own.network.named_modules())
    for layer in own.layers:
        if isinstance(modules.get(layer), torch.jit.ScriptModule):
            raise _wrong(
                own,
                f"its layer {layer!r} is a torch.jit.ScriptModule, which supports no hooks, so it cannot be mapped; hand in the network "
                "that was scripted or traced, or leave layers out for all but Grad-CAM",
            )
        if layer not in modules and any(name.startswith("_orig_mod.") for name in modules):
            raise _wrong(
                own,
                f"it has no layer {layer!r}: torch.compile has put '_orig_mod.' before the names of its modules; hand in the module "
                "before compiling",
            )
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
