"""Tables that compare presets, by hand, and a page of measured tables that is what the files say."""

from __future__ import annotations

import re

import preset_table
import pytest
import tables


def row(preset: str, index: int, values: list[float], objective: float, passes: int, **more: object) -> dict[str, object]:
    facts = {"operator": "freeze", "preset": preset, "index": index, "values": values, "objective": objective, "passes": passes}
    return facts | {"moving": [0, 1, 1, 0], "thresholded": 0.1, "converged": preset == "default"} | more


def test_presets_are_compared_clip_by_clip() -> None:
    rows = [
        row("authors", 0, [0.0, 1.0, 1.0, 0.0], 0.30, 600),
        row("authors", 1, [0.0, 1.0, 0.0, 0.0], 0.20, 600),
        row("default", 0, [0.0, 0.9, 0.6, 0.4], 0.309, 30, thresholded=0.3),
        row("default", 1, [0.0, 0.0, 0.6, 0.0], 0.215, 60),
        row("default", 2, [0.0, 0.0, 0.0, 0.0], 9.0, 90),  # nothing to compare it with
        row("exhaustive", 1, [0.0, 1.0, 1.0, 0.0], 0.25, 7),
    ]
    found = preset_table.summary(rows)["freeze"]
    assert list(found) == ["authors", "default", "exhaustive"]
    own = found["default"]
    assert (own["clips"], own["passes"], own["most_passes"]) == (3, 60, 90)
    assert own["share_of_authors_passes"] == pytest.approx((30 / 600 + 60 / 600) / 2)
    assert own["above_authors"] == {"clips": 2, "mean": pytest.approx(0.012), "most": pytest.approx(0.015)}
    assert own["within"] == {"0.02": 1.0, "0.01": 0.5}
    assert own["above_best_window"] == pytest.approx(0.215 - 0.25)
    assert own["length"] == pytest.approx((2 + 1 + 0) / 3)
    assert own["agreement_with_authors"] == pytest.approx((1.0 + 0.5) / 2)
    assert own["truth_overlap"] == pytest.approx((1.0 + 0.5 + 0.0) / 3)
    assert (own["converged"], found["authors"]["converged"]) == (1.0, 0.0)
    assert found["exhaustive"]["share_of_authors_passes"] == pytest.approx(7 / 600)
    lines = preset_table.markdown({"freeze": found}).splitlines()
    assert len({line.count("|") for line in lines}) == 1
    assert "60 (90)" in lines[3]


def test_a_reverse_mask_is_compared_with_both_ends_of_each_step() -> None:
    found = preset_table.summary([row("default", 0, [1.0, 1.0, 1.0, 0.0], 0.1, 9, operator="reverse")])
    assert found["reverse"]["default"]["truth_overlap"] == 1.0


def test_the_page_shows_the_figures_of_the_files() -> None:
    page = tables.PAGE.read_text(encoding="utf-8")
    assert tables.filled(page) == page
    blocks = tables.BLOCK.findall(page)
    assert len(blocks) >= 8
    assert not re.search(r"-->\n<!-- end", page)  # none is empty
