"""What Grad-CAM at the default layer costs on top of a forward pass, here and in two other libraries."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from authors_loop import trainable_copy
from markdown_table import Table
from rounds import take_turns
from section_iteration import forward
from subjects import Subject

from chronolens.explain.grad_cam import heat_maps
from chronolens.explain.protocol import Passes

Other = Callable[[Subject, int], Callable[[], object]]


def with_captum(subject: Subject, target: int) -> Callable[[], object]:
    """Return captum's ``LayerGradCam`` of the same layer, as work to time."""
    made = importlib.import_module("captum.attr").LayerGradCam(subject.network, _layer(subject))
    return partial(made.attribute, subject.clips[0], target=target)


def with_pytorch_grad_cam(subject: Subject, target: int) -> Callable[[], object]:
    """Return pytorch-grad-cam's ``GradCAM`` of the same layer, as work to time."""
    package = importlib.import_module("pytorch_grad_cam")
    goal = importlib.import_module("pytorch_grad_cam.utils.model_targets").ClassifierOutputTarget(target)
    network = trainable_copy(subject.network)  # it differentiates through parameters that take gradients, and its hooks stay
    made = package.GradCAM(model=network, target_layers=[network.get_submodule(subject.network.default_layers[0])])
    return partial(made, input_tensor=subject.clips[0], targets=[goal])


OTHERS: dict[str, Other] = {"captum": with_captum, "pytorch-grad-cam": with_pytorch_grad_cam}


def gradcam_tables(subjects: Sequence[Subject], rounds: int) -> list[Table]:
    """Return the wall time of a forward pass and of Grad-CAM at the default layer by each library that is here and works."""
    rows: list[dict[str, Any]] = []
    for subject in subjects:
        network, clip, target = subject.network, subject.clips[0], subject.target(0)
        others, failures = _usable(subject, target)
        passes = {"forward": "1 forward", "chronolens": _in_words(heat_maps(network, clip, None).passes)}
        works: dict[str, Callable[[], object]] = {"forward": partial(forward, network, clip)}
        works |= {"chronolens": partial(heat_maps, network, clip, None), **others}
        took = take_turns(works, rounds)
        for name in works:
            figures = {"seconds": took[name], "/_forward": took[name] / took["forward"], "passes": passes.get(name)}
            rows.append({"model": subject.name, "clip": subject.size, "what": name, **figures})
        for name, reason in failures.items():
            rows.append({"model": subject.name, "clip": subject.size, "what": name, "seconds": None, "/_forward": None, "passes": reason})
    notes = [
        "float32. chronolens finds the predicted class itself and returns the scores too, so that its row is prediction and heat map; the"
        " others are told the class. A partial backward pass ends at the layer. The demand is 1.15.",
        "The other libraries take axis 1 of the C-LSTM's layer, which is time, for channels: their wall time counts here, not their map.",
    ]
    return [Table("Prediction and Grad-CAM at the default layer against one forward pass", rows, notes)]


def _usable(subject: Subject, target: int) -> tuple[dict[str, Callable[[], object]], dict[str, str]]:
    """Return the other libraries' work that ran once, and for each that did not the reason in one line."""
    works: dict[str, Callable[[], object]] = {}
    failures: dict[str, str] = {}
    for name, make in OTHERS.items():
        try:
            work = make(subject, target)
            work()
        except ModuleNotFoundError as error:
            failures[name] = f"not installed: no module {error.name}"
        except Exception as error:  # somebody else's library may fail in any way, and the table says how
            failures[name] = f"{type(error).__name__}: {' '.join(str(error).split())[:100]}"
        else:
            works[name] = work
    return works, failures


def _layer(subject: Subject) -> Any:
    return subject.network.get_submodule(subject.network.default_layers[0])


def _in_words(passes: Passes) -> str:
    return f"{passes.forward} forward" + (f" + {passes.input_gradient} partial backward" if passes.input_gradient else "")
