"""Which engine the settings name."""

from __future__ import annotations

from chronolens_gateway.backends.base import Backend, ServerTransport
from chronolens_gateway.backends.local import LocalTransport
from chronolens_gateway.backends.torchserve import TorchServeTransport
from chronolens_gateway.backends.triton import TritonTransport
from chronolens_gateway.servers import triton
from chronolens_gateway.settings import Settings


def open_backend(settings: Settings) -> Backend:
    """Return the backend of a service."""
    return Backend(open_transport(settings))


def open_transport(settings: Settings) -> ServerTransport:
    """Return the way to the engine of a service."""
    if settings.engine == "torchserve":
        return TorchServeTransport(settings.server_folder)
    if settings.engine == "triton-http":
        return TritonTransport(settings.server_folder / triton.ADDRESSES, "http")
    if settings.engine == "triton-grpc":
        return TritonTransport(settings.server_folder / triton.ADDRESSES, "grpc")
    return LocalTransport(settings.socket, settings.engine)
