"""Every error that clipret raises on purpose.

    ClipretError            exit 1; the message is for the user, one or two lines
    |- UsageError           exit 2; an option or argument is out of range, or options contradict each other
    |- DatasetError         annotations or images are missing or malformed
    |- BackboneError        CLIP or its weights cannot be loaded, or do not do what CLIP does
    |- CacheError           a features file cannot be used
    |  |- CacheFormatError      not a clipret cache, or of another format version
    |  |  '- CacheDamagedError      not what was written to it
    |  |- CacheIncompleteError  extraction has not finished
    |  |- CacheMismatchError    made from other inputs than the ones asked for
    |  '- CacheLockedError      another process is writing it
    |- HeadError            a head file cannot be used, or not with this cache
    |- RunError             a run folder cannot be used
    |- ExportError          embeddings cannot be written for other programs
    |- LeakageError         a head is to be measured on images that it was trained on
    '- TrainingError        training cannot go on

A message says what is wrong, where, what was expected, and what to do next. This module imports nothing of ours.
"""


class ClipretError(Exception):
    """Base of all errors meant for the user; the command line prints the message without a traceback."""

    exit_code = 1


class UsageError(ClipretError):
    """An option is out of range or options contradict each other."""

    exit_code = 2


class DatasetError(ClipretError):
    """Annotations or images are missing or malformed."""


class BackboneError(ClipretError):
    """CLIP or its weights cannot be loaded, or do not compute what CLIP computes."""


class CacheError(ClipretError):
    """A features file cannot be used."""


class CacheFormatError(CacheError):
    """The file is not a clipret cache, or one of another format version."""


class CacheDamagedError(CacheFormatError):
    """The file is not what was written to it.

    faults   what is wrong, a sentence for each
    command  what makes the cache anew, where that is legible
    """

    def __init__(self, path, faults: list[str], *, command: str | None = None):
        more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
        remedy = f" with: {command}" if command else "."
        super().__init__(f"{path}: {faults[0]}{more}; the cache is damaged: delete it and extract again{remedy}")
        self.path, self.faults, self.command = path, faults, command


class CacheIncompleteError(CacheError):
    """Extraction of this cache has not finished."""


class CacheMismatchError(CacheError):
    """The cache was made from other inputs than the ones asked for."""


class CacheLockedError(CacheError):
    """Another process is writing this cache."""


class HeadError(ClipretError):
    """A head file cannot be used, or not with this cache."""


class RunError(ClipretError):
    """A run folder cannot be used."""


class ExportError(ClipretError):
    """Embeddings cannot be written for other programs."""


class ServiceError(ClipretError):
    """A web service refused a request, or does not answer."""


class LeakageError(ClipretError):
    """A head is to be measured on images that it was trained on."""


class TrainingError(ClipretError):
    """Training cannot go on with these data or settings."""
