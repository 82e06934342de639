"""``torch-export``: one file ``model.pt2`` for ``torch.export.load``, of the same graph as ONNX; see :mod:`chronolens.export.traced`."""

from __future__ import annotations

from pathlib import Path

import torch

from chronolens.export.kind import Answer, Ask, Kind, Options, Probe, Subject
from chronolens.export.quiet import quiet
from chronolens.export.traced import explaining, interface

FILE = "model.pt2"


def write(subject: Subject, folder: Path) -> Options:
    """Write the graph of a model, see :class:`chronolens.export.kind.Kind`."""
    spec = subject.record.clip
    program = explaining(subject.network, (3, spec.frames, spec.height, spec.width))
    with quiet():
        torch.export.save(program, folder / FILE)
    return interface(subject.network)


def load(subject: Subject, folder: Path) -> Ask:
    """Read the graph back, see :class:`chronolens.export.kind.Kind`."""
    with quiet():
        module = torch.export.load(folder / FILE).module()

    def ask(probe: Probe) -> Answer:
        with torch.no_grad():
            logits, _scores, _explained, *maps = module(probe.clip, probe.target)
        return Answer(logits, dict(zip(subject.network.default_layers, maps, strict=True)))

    return ask


TORCH_EXPORT = Kind(write, load)
