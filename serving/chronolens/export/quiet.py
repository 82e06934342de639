"""PyTorch's exporters talk a lot, on standard output, by warnings and by log; none of it is for who exports a network of ours."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

_WARNINGS: tuple[tuple[type[Warning], str], ...] = (
    (FutureWarning, r".*isinstance\(treespec, LeafSpec\).*"),  # PyTorch's own use of what it deprecated
)
_LOGS = ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")


@contextmanager
def quiet() -> Iterator[None]:
    """Drop the warnings known to be the exporters' own, and their log below errors."""
    loggers = [logging.getLogger(name) for name in _LOGS]
    before = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        for category, message in _WARNINGS:
            warnings.filterwarnings("ignore", message, category)
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, before, strict=True):
                logger.setLevel(level)
