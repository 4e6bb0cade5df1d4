"""The errors that users see. Each message names what failed, why, and what to do next."""

__all__ = ["AudioError", "CheckpointError", "ConfigError", "DataError", "InterruptedRun", "RunError", "SpeechsslError"]


class SpeechsslError(Exception):
    """Base of every error that the command line prints as one clean message (exit code 1)."""


class ConfigError(SpeechsslError):
    """A configuration file, override or preset cannot be used."""


class DataError(SpeechsslError):
    """A manifest, shard or loader is missing, damaged or incomplete."""


class AudioError(DataError):
    """One piece of audio cannot be used.

    Parameters
    ----------
    item
        Utterance id or path.
    reason
        Short machine-readable code in snake_case, for the ledger (``empty_file``, ``not_audio``, ``too_long`` ...).
    detail
        One sentence for people.
    """

    def __init__(self, item: str, reason: str, detail: str = "") -> None:
        super().__init__(f"{item}: {reason}" + (f" ({detail})" if detail else ""))
        self.item = item
        self.reason = reason
        self.detail = detail

    def __reduce__(self) -> tuple[type["AudioError"], tuple[str, str, str]]:
        """Pickle all arguments, so that the error can come back from a worker process."""
        return (type(self), (self.item, self.reason, self.detail))


class CheckpointError(SpeechsslError):
    """A checkpoint cannot be written, or none that can be trusted is there."""


class RunError(SpeechsslError):
    """A training run cannot go on: too many skipped steps, a collapse, a locked folder, a changed configuration."""


class InterruptedRun(SpeechsslError):  # noqa: N818  (a state, not a fault)
    """The run was asked to stop, saved itself, and can be resumed (exit code 75)."""
