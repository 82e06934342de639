"""SlowFast against PyTorchVideo itself, both ways: its weights in our network, and ours in its own.

PyTorchVideo 0.1.5 wants a torchvision of its own and old companions, so it lives in an environment of its own, which these tests call as
another process. To make one:

    python3 -m venv pytorchvideo-env
    pytorchvideo-env/bin/pip install torch==2.13.0 fvcore iopath parameterized networkx
    pytorchvideo-env/bin/pip install --no-deps pytorchvideo==0.1.5 torchvision==0.28.0
    CHRONOLENS_PYTORCHVIDEO_PYTHON=pytorchvideo-env/bin/python .venv/bin/python -m pytest tests/optional

Where torchvision's compiled operators do not load beside a CPU build of PyTorch, ``pytorchvideo_side.py`` declares the two that
PyTorchVideo's import asks for; no SlowFast calls them.
"""

import os

import pytest
from tests.optional.pytorchvideo_exchange import VARIANTS, exchange

from chronolens.importing.dialects import detect

PYTHON = os.environ.get("CHRONOLENS_PYTORCHVIDEO_PYTHON", "")
TOLERANCE, NOTICED = 1e-4, 1e-3

pytestmark = [
    pytest.mark.skipif(not PYTHON, reason="CHRONOLENS_PYTORCHVIDEO_PYTHON names no interpreter with PyTorchVideo (see the module's text)"),
    pytest.mark.timeout(600),
]


@pytest.fixture(scope="module")
def exchanged(tmp_path_factory):
    return exchange(PYTHON, tmp_path_factory.mktemp("pytorchvideo"))


@pytest.mark.parametrize("variant", VARIANTS)
def test_their_weights_in_our_network(exchanged, variant):
    assert detect(exchanged[variant].their_state) == "pytorchvideo"
    assert exchanged[variant].their_weights_in_ours() <= TOLERANCE
    assert exchanged[variant].their_weights_in_ours(slow_frames="stride") > NOTICED


@pytest.mark.parametrize("variant", VARIANTS)
def test_our_weights_in_their_network(exchanged, variant):
    assert exchanged[variant].our_weights_in_theirs() <= TOLERANCE
    assert exchanged[variant].logits_with_ours.std() > 0.1


@pytest.mark.parametrize("head", ["mean_of_softmax", "global"])
def test_other_heads_are_noticed_on_a_large_map(exchanged, head):
    assert exchanged["8x8, map of 8 x 9"].their_weights_in_ours(head=head) > NOTICED
