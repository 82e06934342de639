"""Which engine the settings name."""

from __future__ import annotations

from chronolens_gateway.backends.base import Backend
from chronolens_gateway.backends.local import LocalTransport
from chronolens_gateway.settings import Settings


def open_backend(settings: Settings) -> Backend:
    """Return the backend of a service."""
    return Backend(LocalTransport(settings.socket))
