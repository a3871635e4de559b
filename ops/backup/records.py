"""What the verifications of a backup found: `verified.json`, beside its manifest."""

from typing import Annotated, Any, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from backends.errors import BackupDamaged
from ops.backup.manifest import VERIFIED, first_problem
from ops.backup.sealing import seal, unseal

Depth = Literal["sizes", "hashes", "drill"]
MAX_RECORD_BYTES = 1 << 20
MAX_PROBLEM_CHARACTERS = 2_000


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class VerificationRecord(_Part):
    """One verification: how deep, when, and how it ended. `problem` says what was wrong first, None where nothing."""

    depth: Depth
    verified_at: AwareDatetime
    ok: bool
    duration_s: Annotated[float, Field(ge=0)]
    problem: Annotated[str, StringConstraints(max_length=MAX_PROBLEM_CHARACTERS)] | None
    tool_version: Annotated[str, StringConstraints(min_length=1, max_length=200)]


class Verifications(_Part):
    """What is remembered of a backup's verifications; a later one never hides what an earlier one found.

    `last` is the last of all, `proven` the last that read every byte and found nothing, `failed` the last that
    found something.
    """

    backup_id: str
    last: VerificationRecord
    proven: VerificationRecord | None
    failed: VerificationRecord | None

    @property
    def is_proven(self) -> bool:
        """Whether the backup was read through and found whole, and nothing wrong was found since."""
        if self.proven is None:
            return False
        return self.failed is None or self.failed.verified_at < self.proven.verified_at


def added(before: Verifications | None, backup_id: str, record: VerificationRecord) -> Verifications:
    """Return what is to be remembered after one more verification."""
    reads_all = record.depth != "sizes"
    return Verifications(
        backup_id=backup_id,
        last=record,
        proven=record if record.ok and reads_all else before.proven if before else None,
        failed=record if not record.ok else before.failed if before else None,
    )


def dump(verifications: Verifications, key: str | None) -> bytes:
    """Return `verified.json`."""
    content: dict[str, Any] = verifications.model_dump(mode="json")
    return seal("verifications", content, key)


def parse(data: bytes, backup_id: str, key: str | None) -> Verifications:
    """Return what is remembered of this backup's verifications; raises BackupDamaged for anything that is wrong."""
    file = f"{backup_id}/{VERIFIED}"
    try:
        verifications = Verifications.model_validate_json(unseal(data, file, "verifications", key))
    except ValidationError as error:
        raise BackupDamaged(file, first_problem(error)) from error
    if verifications.backup_id != backup_id:
        raise BackupDamaged(file, f"it is that of {verifications.backup_id[:60]!r}; needed {backup_id!r}")
    return verifications
