"""A state on the disk: immutable segments, the delta, who is dead, and a manifest that is put in place last.

A process that is killed at any moment leaves the manifest before or the manifest after, and all that it names.
"""

import hashlib
import json
import logging
import secrets
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backends.faiss.files import Damaged, FileRecord, check, mapped_array, replace_text, sync, write_array
from backends.faiss.segment import Segment
from backends.faiss.segment_files import Opening, open_segment
from backends.faiss.selecting import Selection, every
from backends.faiss.state import Delta, State, delta_of, empty_delta
from backends.types import IndexIdentity, IndexSpec
from backends.vectors import KEPT

FORMAT = 1
MANIFEST = "manifest.json"
TRIES = 50

log = logging.getLogger(__name__)


def save(folder: Path, state: State, identity: IndexIdentity, spec: IndexSpec) -> None:
    """Make a state durable; its segments are on the disk already, in this folder. Then remove what it replaces."""
    body = {
        "format": FORMAT,
        "identity": asdict(identity),
        "spec": asdict(spec),
        "applied": state.applied,
        "segments": [_saved_segment(folder, segment) for segment in state.segments],
        "delta": _saved_delta(folder, state.delta, spec),
    }
    text = json.dumps({**body, "sha256": _checksum(body)}, indent=1)
    sync(folder)  # the files that it names are there when it is
    replace_text(folder / MANIFEST, text)
    _tidy(folder, {MANIFEST, *_names(body)})


def load(folder: Path, identity: IndexIdentity, opening: Opening) -> State | None:
    """Return the newest state that was saved; None, with a warning, where it is not whole or not this index's.

    Whoever owns the folder may replace the snapshot meanwhile, and remove files; then the new one is read. What
    was checked is not checked again, so that even an owner who saves all the time is soon caught up with.
    """
    reading = _Reading(folder, opening)
    text = b""
    for _ in range(TRIES):
        try:
            before, text = text, (folder / MANIFEST).read_bytes()
        except FileNotFoundError:
            return None
        if text == before:
            break
        try:
            return reading.state(text, identity)
        except Exception as error:  # whatever is wrong with it, it is rebuilt
            fault = error
    log.warning("FAISS: the snapshot in %s cannot be used, and the index is to be rebuilt: %s", folder, fault)
    return None


def saved_applied(folder: Path) -> int:
    """Return what the newest snapshot has applied, or -1 where there is none that can be read."""
    try:
        return int(_body((folder / MANIFEST).read_bytes())["applied"])
    except (OSError, Damaged):
        return -1


def _saved_segment(folder: Path, segment: Segment) -> dict[str, Any]:
    some_dead = segment.live.count < len(segment.ids)
    return {
        "name": segment.name,
        "kind": segment.kind,
        "count": len(segment.ids),
        "live_count": segment.live.count,
        "files": [asdict(file) for file in segment.files],
        "live": asdict(write_array(_new(folder, "live"), [segment.live.bits])) if some_dead else None,
    }


def _saved_delta(folder: Path, delta: Delta, spec: IndexSpec) -> dict[str, Any] | None:
    if not len(delta.ids):
        return None
    embeddings = delta.embeddings.astype(KEPT[spec.precision])
    return {
        "count": len(delta.ids),
        "ids": asdict(write_array(_new(folder, "ids"), [delta.ids])),
        "embeddings": asdict(write_array(_new(folder, "embeddings"), [embeddings])),
    }


def _new(folder: Path, what: str) -> Path:
    return folder / f"{secrets.token_hex(8)}.{what}"


class _Reading:
    """Reads a snapshot: first the small files, which the owner replaces with each save."""

    def __init__(self, folder: Path, opening: Opening) -> None:
        self._folder = folder
        self._opening = opening
        self._whole: set[FileRecord] = set()

    def state(self, text: bytes, identity: IndexIdentity) -> State:
        body = _body(text)
        if body["identity"] != asdict(identity) or body["spec"] != asdict(self._opening.spec):
            raise Damaged("it is another index's")
        delta = self._delta(body["delta"])
        live = [self._live(saved) for saved in body["segments"]]
        segments = map(self._segment, body["segments"], live)
        return State(segments=tuple(segments), delta=delta, applied=body["applied"])

    def _delta(self, saved: dict[str, Any] | None) -> Delta:
        spec = self._opening.spec
        if saved is None:
            return empty_delta(spec)
        count = saved["count"]
        ids = self._array(saved["ids"], np.int64, (count,))
        embeddings = self._array(saved["embeddings"], KEPT[spec.precision], (count, spec.dimension))
        return delta_of(ids, embeddings.astype(np.float32), spec)

    def _live(self, saved: dict[str, Any]) -> Selection:
        live = every(saved["count"])
        if saved["live"] is None:
            return live
        return Selection(self._array(saved["live"], np.uint8, live.bits.shape), saved["live_count"])

    def _segment(self, saved: dict[str, Any], live: Selection) -> Segment:
        files = tuple(FileRecord(**file) for file in saved["files"])
        for file in files:
            self._checked(file)
        segment = open_segment(self._folder, saved["name"], saved["kind"], saved["count"], files, self._opening)
        return segment.with_live(live)

    def _array(self, saved: dict[str, Any], dtype: Any, shape: tuple[int, ...]) -> NDArray[Any]:
        return np.array(mapped_array(self._checked(FileRecord(**saved)), dtype, shape))

    def _checked(self, file: FileRecord) -> Path:
        if file not in self._whole:
            check(self._folder, file)
            self._whole.add(file)
        return self._folder / file.name


def _body(text: bytes) -> dict[str, Any]:
    """Return what a manifest says; raises Damaged where it is not as it was written."""
    try:
        body = json.loads(text)
        checksum = body.pop("sha256")
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise Damaged(f"{MANIFEST} cannot be read ({error})") from error
    if checksum != _checksum(body):
        raise Damaged(f"{MANIFEST} is not what was written")
    if body["format"] != FORMAT:
        raise Damaged(f"{MANIFEST} has format {body['format']}; this Ragstone reads {FORMAT}")
    return dict(body)


def _checksum(body: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def _names(body: dict[str, Any]) -> set[str]:
    """Return the names of all files that a manifest's body refers to."""
    segments = body["segments"]
    files = [file for segment in segments for file in (*segment["files"], segment["live"]) if file]
    files += [body["delta"][part] for part in ("ids", "embeddings")] if body["delta"] else []
    return {file["name"] for file in files}


def _tidy(folder: Path, kept: set[str]) -> None:
    for path in folder.iterdir():
        if path.is_file() and path.name not in kept:
            path.unlink()
