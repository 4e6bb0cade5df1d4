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
    """Download archives that are not unpacked in the folder yet; torchaudio's checksums are checked."""
    output: str = ""
    """Folder of the manifest; empty for ``FOLDER/manifest``."""
    manifest: ManifestConfig = field(default_factory=lambda: ManifestConfig(max_seconds=60.0))
    """How the audio is read. The default max_seconds leaves no utterance of a published test set out. The fractions
    count only for corpora without splits of their own."""
