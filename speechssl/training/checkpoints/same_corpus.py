"""Whether a run that is taken up again still has the corpus it was started with.

In: the run folder and an open corpus. Out: nothing, or the error that every rank raises. ``corpus.npz`` in the run
folder holds the identity of the corpus, 16 bytes an utterance.
"""

import logging
from collections.abc import Mapping

from speechssl.core.errors import DataError, RunError
from speechssl.core.ledger import Entry
from speechssl.data.store.identity import Difference, Identity, difference, identity_of, is_unchanged
from speechssl.data.store.reader import Corpus
from speechssl.training.parallel import Parallel
from speechssl.training.run_folder import ALLOWED, RunFolder

__all__ = ["check_corpus"]

logger = logging.getLogger("speechssl.run")


def check_corpus(
    run: RunFolder,
    corpus: Corpus,
    parallel: Parallel,
    *,
    name: str = "corpus",
    texts: Mapping[str, str] | None = None,
) -> None:
    """Compare a corpus with the one that the run was started with; remember it when the run is new.

    With ``run.allow_changes`` another corpus is accepted: it takes the place of the old one, and the ledger says so.
    The file in the run folder is ``corpus`` (training) or ``corpus-dev``. ``texts`` are transcripts by id, where the
    run depends on them.

    Raises RunError, on every rank, when the corpus is another one, or its file cannot be read or written.
    """
    problem = ""
    if parallel.first:
        try:
            problem = _problem(run, corpus, name, texts)
        except (DataError, OSError) as error:
            problem = str(error)
    if problem := parallel.gather(problem)[0]:
        raise RunError(problem)


def _problem(run: RunFolder, corpus: Corpus, name: str, texts: Mapping[str, str] | None) -> str:
    path = run.path / f"{name}.npz"
    old = Identity.load(path) if path.exists() else None
    if old is not None and texts is None and is_unchanged(old, corpus):
        return ""
    new = identity_of(corpus, texts)
    found = Difference() if old is None else difference(old, new, lambda: corpus.ids)
    if found and not run.allow_changes:
        return (
            f"{run.path} was started with another corpus ({name}) than {corpus.source.name} now holds: {found}. "
            "Give it the corpus it had, choose another output folder, or go on with this one by --allow-changes"
        )
    if found:
        logger.warning("%s goes on with another corpus: %s", run.path, found)
        run.record([Entry(run.stage, name, "corpus_changed", str(found), ALLOWED)])
    if old is None or found or old.listing != new.listing:
        new.save(path)
    return ""
