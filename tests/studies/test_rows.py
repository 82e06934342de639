"""Findings on disk: what was found stays found."""

from __future__ import annotations

from pathlib import Path

import pytest

from chronolens.errors import OptionsError
from chronolens.studies.rows import Rows

HEAD = {"model": "m", "weights": "abc"}


def test_findings_are_there_again(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    first = Rows(path, HEAD, ("index", "method"))
    assert first.get(3, "x") is None
    row = {"index": 3, "method": "x", "value": 0.1 + 0.2}
    assert first.add(row) is row
    again = Rows(path, HEAD, ("index", "method"))
    assert again.get(3, "x") == row
    assert again.get(3, "y") is None
    assert len(path.read_text().splitlines()) == 2


def test_a_half_written_line_is_dropped_and_the_file_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    rows = Rows(path, HEAD, ("index",))
    rows.add({"index": 0})
    with path.open("a") as file:
        file.write('{"index": 1, "val')
    healed = Rows(path, HEAD, ("index",))
    assert healed.get(1) is None
    healed.add({"index": 1})
    assert [Rows(path, HEAD, ("index",)).get(number) for number in (0, 1)] == [{"index": 0}, {"index": 1}]


@pytest.mark.parametrize("text", ["no json\n", "[1, 2]\n{}\n", '{"model": "m", "weights": "abc"}\n{"other": 1}\n'])
def test_a_file_of_something_else_is_refused_and_kept(tmp_path: Path, text: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(text)
    with pytest.raises(OptionsError) as caught:
        Rows(path, HEAD, ("index",))
    assert caught.value.pointer == "/rows"
    assert path.read_text() == text


def test_findings_of_another_origin_are_refused(tmp_path: Path) -> None:
    Rows(tmp_path / "rows.jsonl", HEAD, ("index",))
    with pytest.raises(OptionsError, match="another file"):
        Rows(tmp_path / "rows.jsonl", {**HEAD, "weights": "def"}, ("index",))


def test_without_a_file_findings_live_in_memory() -> None:
    rows = Rows(None, HEAD, ("index",))
    rows.add({"index": 0})
    assert rows.get(0) == {"index": 0}
