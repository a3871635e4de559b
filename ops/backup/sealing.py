"""JSON that says of itself whether it is whole: with a checksum, and with a signature where there is a key.

A sealed file is `{"<name>": {...}, "checksum": ..., "signature": ...}`. The checksum is the SHA-256 of the content in
canonical form: sorted keys, no spaces, UTF-8. The signature is its HMAC-SHA-256 (RFC 2104), or null. A checksum finds
what went wrong by chance; only a signature finds what somebody has changed on purpose.
"""

import hashlib
import hmac
import json
import re
from typing import Any, NoReturn

from backends.errors import BackupDamaged

MAX_SEALED_BYTES = 64 << 20
_DIGEST = re.compile(r"[0-9a-f]{64}")


def seal(name: str, content: dict[str, Any], key: str | None) -> bytes:
    """Return a sealed file's bytes; signed where there is a key."""
    canonical = _canonical(content)
    sealed = {
        name: content,
        "checksum": hashlib.sha256(canonical).hexdigest(),
        "signature": None if key is None else _signature(canonical, key),
    }
    return _written(sealed)


def unseal(data: bytes, file: str, name: str, key: str | None) -> bytes:
    """Return the content of a sealed file in canonical form, checked.

    Raises BackupDamaged with `file` where it is torn, has another checksum, or, where there is a key, is not signed
    with it.
    """
    sealed = _parsed(data, file)
    if not isinstance(sealed, dict) or sealed.keys() != {name, "checksum", "signature"}:
        raise BackupDamaged(file, f"needed an object of {name}, checksum and signature")
    checksum, signature = sealed["checksum"], sealed["signature"]
    if not _is_digest(checksum) or not (signature is None or _is_digest(signature)):
        raise BackupDamaged(file, "its checksum or its signature is none")
    try:
        canonical, written = _canonical(sealed[name]), _written(sealed)
    except (ValueError, RecursionError) as error:
        raise _no_json(file, error) from error
    if not hmac.compare_digest(checksum, hashlib.sha256(canonical).hexdigest()):
        raise BackupDamaged(file, "its content is not what its checksum says")
    if data != written:
        raise BackupDamaged(file, "it says what it should, but not byte for byte as it was written")
    if key is not None:
        _check_signature(canonical, signature, key, file)
    return canonical


def _check_signature(canonical: bytes, signature: str | None, key: str, file: str) -> None:
    if signature is None:
        raise BackupDamaged(file, "it is not signed; needed a signature, since there is a backup key")
    if not hmac.compare_digest(signature, _signature(canonical, key)):
        raise BackupDamaged(file, "its signature is not one by this backup key")


def _parsed(data: bytes, file: str) -> Any:
    if len(data) > MAX_SEALED_BYTES:
        raise BackupDamaged(file, f"found {len(data):,} bytes; needed at most {MAX_SEALED_BYTES:,}")
    try:
        return json.loads(data.decode(), parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:  # an integer of thousands of digits is a ValueError too
        raise _no_json(file, error) from error


def _canonical(content: Any) -> bytes:
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode()


def _written(sealed: dict[str, Any]) -> bytes:
    """For people too: a line for each field."""
    return json.dumps(sealed, sort_keys=True, ensure_ascii=False, indent=1).encode()


def _signature(canonical: bytes, key: str) -> str:
    return hmac.new(key.encode(), canonical, hashlib.sha256).hexdigest()


def _is_digest(value: object) -> bool:
    return isinstance(value, str) and _DIGEST.fullmatch(value) is not None


def _no_json(file: str, error: Exception) -> BackupDamaged:
    return BackupDamaged(file, f"it is no JSON of ours: {str(error)[:80]}")


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number")
