"""``speechssl report RUN``: a run folder in, report.html, report.json and report.txt out.

Reads files only; works on a running, interrupted or partial run. The page is one self-contained file.
"""

from datetime import datetime
from pathlib import Path

from speechssl.core.files import write_atomic, write_json
from speechssl.reports.run.collect import collect
from speechssl.reports.run.facts import facts_of, to_json
from speechssl.reports.run.page import render_page
from speechssl.reports.run.text import render_text

__all__ = ["build_report"]


def build_report(run_folder: Path, output: Path | None = None, *, made: datetime | None = None) -> Path:
    """Write the three reports of a run and return the path of the page.

    Parameters
    ----------
    run_folder
        Folder of a pretraining, fine-tuning or evaluation, or of a whole run with these as subfolders.
    output
        The page's path; the two others go beside it with the same stem. ``RUN/report.html`` when absent.
    made
        The time that the reports show; now when absent.

    Raises
    ------
    DataError
        The folder does not exist, or nothing in it comes from a run.
    """
    record = collect(Path(run_folder))
    facts = facts_of(record)
    made = made or datetime.now().astimezone()
    page = Path(output) if output is not None else Path(run_folder) / "report.html"
    document = {"made": made.isoformat(timespec="seconds"), **to_json(record, facts)}
    write_json(page.with_suffix(".json"), document, allow_nan=False)
    write_atomic(page.with_suffix(".txt"), render_text(record, facts, made))
    write_atomic(page, render_page(record, facts, made))
    return page
