"""Imported weights answer as the original code does, told by a second derivation from the published code of each dialect."""

import pytest
from tests.importing.parity_cases import CASES, NOTICED, TOLERANCE

from chronolens.importing.dialects import DIALECTS, detect


@pytest.fixture(scope="module", params=CASES)
def compared(request):
    case = CASES[request.param]()
    return case, case.ours()


def test_ours_answers_as_the_original(compared):
    case, ours = compared
    gap = case.gap(ours)
    assert gap.logits <= TOLERANCE
    assert gap.scores <= TOLERANCE


def test_every_changed_fact_would_be_noticed(compared):
    case, ours = compared
    assert {name: distance for name, distance in case.distances(ours).items() if distance <= NOTICED} == {}


def test_the_dialect_is_recognised(compared):
    case, _ = compared
    assert detect(case.state) == case.dialect


def test_every_dialect_has_a_case():
    assert {name.split()[0].rstrip(",") for name in CASES} == set(DIALECTS)
