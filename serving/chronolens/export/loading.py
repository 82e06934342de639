"""Opening an ONNX artefact by its folder alone: no weights record and no PyTorch network are needed."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch

from chronolens.clips import ClipSpec
from chronolens.errors import WeightsError
from chronolens.export.manifest import Manifest, check_files, read_manifest
from chronolens.golden import check_golden, golden_frames
from chronolens.models.onnx_network import GraphMap, OnnxNetwork
from chronolens.video.prepare import prepare


def open_onnx(folder: Path, *, card: int = 0) -> tuple[Manifest, OnnxNetwork]:
    """Return the manifest and the network of an artefact of the kind ``onnx``, once it has answered the golden clip.

    Raises:
        WeightsError: no such artefact, damage, or (code ``golden-clip``) other scores than recorded.
        OptionsError: ONNX Runtime is not installed.
    """
    manifest = read_manifest(folder)
    if manifest.kind != "onnx" or len(manifest.files) != 1:
        raise WeightsError(f"an artefact of the kind {manifest.kind[:40]!r} is no ONNX graph")
    check_files(folder, manifest)
    maps = [GraphMap.from_json(one.model_dump()) for one in manifest.maps]
    network = OnnxNetwork(folder / next(iter(manifest.files)), maps, card)
    clip = torch.from_numpy(prepare(golden_frames(clip_spec(manifest), manifest.golden.seed), clip_spec(manifest)))
    check_golden(torch.softmax(network(clip)[0].double(), dim=0).numpy(), manifest.golden.scores)
    return manifest, network


def clip_spec(manifest: Manifest) -> ClipSpec:
    """Return how clips are prepared for an artefact."""
    known = {field.name for field in dataclasses.fields(ClipSpec)}
    return ClipSpec(**manifest.clip.model_dump(include=known))
