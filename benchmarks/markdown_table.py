"""A table of figures: rows for the JSON file, markdown for the eye."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Table:
    """Rows of one shape under a title.

    Args:
        title: what was measured.
        rows: the same names in every row; a name becomes a column, its underscores spaces.
        notes: sentences that belong to the figures.
    """

    title: str
    rows: list[dict[str, Any]]
    notes: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Return the fields under their own names."""
        return asdict(self)

    def markdown(self) -> str:
        """Return heading, table and notes."""
        lines = [f"### {self.title}", ""]
        if self.rows:
            names = list(self.rows[0])
            lines += [_line([name.replace("_", " ") for name in names]), _line(["---"] * len(names))]
            lines += [_line([_cell(row[name]) for name in names]) for row in self.rows]
            lines.append("")
        return "\n".join([*lines, *(f"{note}\n" for note in self.notes)])


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return str(value)
