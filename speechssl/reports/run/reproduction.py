"""The last section of the report: commands, versions and settings that reproduce the run, and its times.

In: a `RunRecord` and its `Facts`. Out: `Html`.
"""

from speechssl.reports.page.html import Child, Html, el
from speechssl.reports.run.collect import RunRecord
from speechssl.reports.run.facts import Facts
from speechssl.reports.run.tables import duration_text, table

__all__ = ["reproduction"]


def reproduction(record: RunRecord, facts: Facts) -> list[Html | None]:
    """Return commands, versions, times and configurations."""
    parts: list[Html | None] = [
        el("p", "In the folder of this run:"),
        el("pre", el("code", "\n".join(facts.commands))),
    ]
    if any("FOLDER" in command for command in facts.commands):
        parts.append(el("p", "FOLDER is the folder of audio. Finished stages are not made again.", class_="faint"))
    tables = [table("Versions.", ("Component", "Version"), list(record.environment.items()), text=range(2))]
    if record.seconds:
        rows: list[tuple[Child, ...]] = [(name, duration_text(seconds)) for name, seconds in record.seconds]
        rows.append(("all", duration_text(sum(seconds for _, seconds in record.seconds))))
        tables.append(table("Time of each stage.", ("Stage", "Time"), rows))
    parts.append(el("div", tables, class_="row"))
    for name, text in record.configs:
        parts.append(el("details", el("summary", el("code", name)), el("pre", el("code", text))))
    return parts
