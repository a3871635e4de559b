"""Every error that Ragstone raises on purpose.

RagstoneError
├── InvalidInput            the caller can mend it; `field` names what to mend
│   ├── InvalidName         a collection's name
│   ├── InvalidDocument     an id, a title, a text or metadata
│   ├── InvalidEmbedding    a shape, a dtype or a value
│   ├── InvalidFilter       an operator, a key or a value
│   ├── DuplicateId         an id twice in one batch
│   └── InvalidSettings     a setting, an environment variable, a model that is not there
├── NotFound
│   ├── CollectionNotFound
│   ├── DocumentNotFound
│   ├── JobNotFound
│   └── BackupNotFound
├── Conflict                it does not fit what is there already
│   ├── CollectionExists
│   └── ModelMismatch       embedded by another model, or by other settings of it
├── TooLarge                a request body or a file over its limit
├── Busy                    try again after `retry_after_s`
│   ├── QueueFull           too much is waiting for the embedding model
│   ├── IndexBehind         the tail is full: writes wait for the vector index
│   ├── WriteConflict       other writers kept changing the same documents
│   └── BudgetExceeded      a hard limit of what may be spent is reached
├── FilterTooExpensive      the search would take more than the statement's budget
├── Unavailable             something outside cannot be reached
│   ├── CorpusUnavailable   PostgreSQL
│   ├── IndexUnavailable    a vector index, or what it says is not this collection's
│   ├── EmbedderUnavailable an embeddings endpoint
│   ├── GeneratorUnavailable a model server
│   └── RepositoryUnavailable where backups are kept: no access, no room
├── BackupDamaged           a backup is not what was written; `file` says where
├── Unsupported             PostgreSQL without pgvector, or with one that is too old
├── BehindHorizon           a follower that must rebuild: deletes that it needs are forgotten
└── NotBuiltYet             pinned in the interface, and not there yet

`code` is stable and goes into problem documents; the text is for people and may change.
"""


class RagstoneError(Exception):
    """The root: catch this to catch everything that Ragstone raises on purpose."""

    code = "ragstone_error"


class InvalidInput(RagstoneError, ValueError):
    """The input is wrong; `field` names the part to mend, for example `documents[3].text`."""

    code = "invalid_input"

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}")
        self.field = field
        self.problem = problem


class InvalidName(InvalidInput):
    code = "invalid_name"


class InvalidDocument(InvalidInput):
    code = "invalid_document"


class InvalidEmbedding(InvalidInput):
    code = "invalid_embedding"


class InvalidFilter(InvalidInput):
    code = "invalid_filter"


class DuplicateId(InvalidInput):
    code = "duplicate_id"


class InvalidSettings(InvalidInput):
    code = "invalid_settings"


class NotFound(RagstoneError, LookupError):
    code = "not_found"


class CollectionNotFound(NotFound):
    code = "collection_not_found"


class DocumentNotFound(NotFound):
    code = "document_not_found"


class JobNotFound(NotFound):
    code = "job_not_found"


class BackupNotFound(NotFound):
    code = "backup_not_found"


class Conflict(RagstoneError):
    code = "conflict"


class CollectionExists(Conflict):
    code = "collection_exists"


class ModelMismatch(Conflict):
    code = "model_mismatch"


class TooLarge(RagstoneError):
    code = "too_large"


class Busy(RagstoneError):
    """Too much is going on; `retry_after_s` says when it is worth another try."""

    code = "busy"

    def __init__(self, message: str, retry_after_s: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class QueueFull(Busy):
    code = "queue_full"


class IndexBehind(Busy):
    code = "index_behind"


class WriteConflict(Busy):
    code = "write_conflict"


class BudgetExceeded(Busy):
    """A hard limit is reached; `retry_after_s` is when its day ends, and 0 where no retry will help."""

    code = "budget_exceeded"


class FilterTooExpensive(RagstoneError):
    code = "filter_too_expensive"


class Unavailable(RagstoneError):
    """It cannot be reached; `retry_after_s` says when it will be tried again, where that is known."""

    code = "unavailable"

    def __init__(self, message: str, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class CorpusUnavailable(Unavailable):
    code = "corpus_unavailable"


class IndexUnavailable(Unavailable):
    code = "index_unavailable"


class EmbedderUnavailable(Unavailable):
    code = "embedder_unavailable"


class GeneratorUnavailable(Unavailable):
    code = "generator_unavailable"


class RepositoryUnavailable(Unavailable):
    code = "repository_unavailable"


class BackupDamaged(RagstoneError):
    """A backup is not what was written; `file` is the part, as `backup id/file name`."""

    code = "backup_damaged"

    def __init__(self, file: str, problem: str) -> None:
        super().__init__(f"{file}: {problem}")
        self.file = file
        self.problem = problem


class Unsupported(RagstoneError):
    code = "unsupported"


class BehindHorizon(RagstoneError):
    code = "behind_horizon"


class NotBuiltYet(RagstoneError):
    code = "not_built_yet"
