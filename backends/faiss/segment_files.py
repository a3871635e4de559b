"""A segment as files: written once under names of its own, and opened by mapping them."""

import logging
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from backends.faiss.files import Damaged, FileRecord, mapped_array, recorded, write_array
from backends.faiss.gpu import Card
from backends.faiss.kinds import FLAT_BELOW, LOSSY, Kind
from backends.faiss.library import faiss
from backends.faiss.making import Rows, metric_of
from backends.faiss.segment import Segment
from backends.faiss.selecting import every
from backends.types import IndexSpec
from backends.vectors import KEPT

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Opening:
    """How a process opens segments: what they have to be, and where they are searched (None: the CPU)."""

    spec: IndexSpec
    card: Card | None


def write_segment(folder: Path, kind: Kind, rows: Rows, index: Any, opening: Opening) -> Segment:
    """Write a segment's files to the disk and open them: what was built in memory can be given back."""
    name = secrets.token_hex(8)
    path = folder / f"{name}.faiss"
    faiss.write_index(index, str(path))
    files = [recorded(path), write_array(folder / f"{name}.ids", [rows.ids])]
    if kind in LOSSY:
        kept = KEPT[opening.spec.precision]
        files.append(write_array(folder / f"{name}.vectors", (part.astype(kept) for part in rows.slices())))
    return open_segment(folder, name, kind, len(rows.ids), tuple(files), opening)


def open_segment(
    folder: Path, name: str, kind: Kind, count: int, files: tuple[FileRecord, ...], opening: Opening
) -> Segment:
    """Open a segment from files that were checked; raises Damaged where they are not such a segment's.

    Flat and HNSW are mapped, and shared by all processes that do; inverted lists are read into memory. Embeddings
    that a lossy kind keeps beside are mapped, and read by merges and by searches among few rows alone.
    """
    spec = opening.spec
    paths = [folder / file.name for file in files]
    index = faiss.read_index(str(paths[0]), faiss.IO_FLAG_MMAP_IFC)
    if (index.ntotal, index.d, index.metric_type) != (count, spec.dimension, metric_of(spec)):
        raise Damaged(f"{paths[0].name} holds {index.ntotal} rows of dimension {index.d}, or another metric")
    segment = Segment(
        name=name,
        kind=kind,
        ids=mapped_array(paths[1], np.int64, (count,)),
        index=index,
        live=every(count),
        files=files,
        vectors=mapped_array(paths[2], KEPT[spec.precision], (count, spec.dimension)) if kind in LOSSY else None,
    )
    return _on_card(segment, opening.card)


def _on_card(segment: Segment, card: Card | None) -> Segment:
    """Copy a segment to the card, if there is one that can search it and has the memory."""
    if card is None or len(segment.ids) < FLAT_BELOW or not card.searches(segment.kind):
        return segment
    try:
        slices = Rows(segment.ids, segment.embeddings).slices()
        return segment.with_card(card.placed(segment.kind, segment.index, slices))
    except RuntimeError as error:
        log.warning("FAISS: a segment does not go on the GPU and is searched on the CPU: %s", error)
        return segment
