"""Write the reference table of the configuration into docs/configuration.md."""

from __future__ import annotations

from pathlib import Path

from evolve.config.reference import reference_table

PAGE = Path(__file__).parent / "configuration.md"
BEGIN, END = "<!-- begin generated -->\n", "<!-- end generated -->\n"


def with_table(text: str) -> str:
    """Return the page with the table of the present schema between its two marks."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{reference_table()}\n{END}{after}"


if __name__ == "__main__":
    PAGE.write_text(with_table(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
