"""Settings of ``speechssl corpus``: a public corpus as a manifest."""

from dataclasses import dataclass, field

from speechssl.config.data import ManifestConfig

__all__ = ["CorpusConfig"]


@dataclass(frozen=True)
class CorpusConfig:
    """A public corpus as a manifest with its own splits."""

    subset: tuple[str, ...] = ()
    """Parts of the corpus, such as ``dev-clean test-clean``, or ``all``; empty for the usual ones that are there."""
    download: bool = False
    """Fetch archives that are not unpacked in the folder yet, checked by torchaudio's checksums."""
    output: str = ""
    """Where the manifest goes; empty for ``FOLDER/manifest``."""
    manifest: ManifestConfig = field(default_factory=lambda: ManifestConfig(max_seconds=60.0))
    """Longer than elsewhere: no utterance of a published test set is to be cut or left out. The fractions count only
    for corpora without splits of their own."""
