"""What `ragstone backup` prints: tables for people, documents for programs."""

from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.filesize import decimal
from rich.table import Table

from backends.errors import BackupDamaged
from ops.output import printable
from ops.progress import duration

if TYPE_CHECKING:  # they would bring Arrow into every command
    from ops.backup import Backup, Listing, Pruned, Restored, Verification
    from ops.backup.manifest import Manifest
    from ops.backup.records import Verifications

_NUMBERS = ("documents", "chunks", "written", "collections", "size", "loaded in", "indexed in")
_WIDEST = 1_000


def made_json(made: "Backup") -> dict[str, Any]:
    """Return what was made, as JSON."""
    return asdict(made) | {"snapshot_at": _json_time(made.snapshot_at), "duration_s": round(made.duration_s, 3)}


def show_made(console: Console, made: "Backup") -> None:
    """Print what was made: each collection, and what it took."""
    table = _table("collection", "documents", "chunks", "written", "parent")
    for one in made.collections:
        counts = f"{one.documents:,}", f"{one.chunks:,}", f"{one.written:,}"
        table.add_row(one.name, *counts, one.parent or "none: complete in itself")
    _print(console, table)
    console.print(
        f"{made.id}: {made.files:,} files, {decimal(made.size_bytes)}, in {duration(made.duration_s)}.", soft_wrap=True
    )
    if made.left_out:
        console.print(f"Deleted while it was made, and left out: {', '.join(made.left_out)}.", soft_wrap=True)


def listing_json(found: "Listing") -> dict[str, Any]:
    """Return what a repository holds, as JSON."""
    broken = not_restorable(found)
    return {
        "repository": found.repository,
        "backups": [_listed_json(one, found, broken.get(one.id)) for one in found.complete],
        "incomplete": found.incomplete,
        "damaged": _damaged_json(found.damaged),
    }


def show_listing(console: Console, found: "Listing") -> None:
    """Print what a repository holds, and below it what cannot be used there."""
    if not found.complete:
        console.print(f"There are no complete backups in {printable(found.repository)}.", soft_wrap=True)
    else:
        _print(console, _listing_table(found))
    for id_, problem in not_restorable(found).items():
        console.print(f"{id_}: cannot be restored: {problem}", style="red", soft_wrap=True)
    for damage in found.damaged.values():
        console.print(printable(f"{damage.file}: {damage.problem}"), style="red", soft_wrap=True)
    for id_ in found.incomplete:
        console.print(f"{id_}: incomplete: it is being made, or its making was interrupted", soft_wrap=True)


def has_finding(found: "Listing") -> bool:
    """Whether an operator has to do something: damage, a chain that is broken, a verification that failed."""
    return bool(found.damaged or not_restorable(found) or any(map(_failed_last, found.verifications.values())))


def not_restorable(found: "Listing") -> dict[str, str]:
    """Return the backups whose chain is not whole, with the reason. A parent is older than its child."""
    whole: set[str] = set()
    broken = {}
    for made in found.complete:
        lacking = sorted({entry.parent for entry in made.collections if entry.parent is not None} - whole)
        if lacking:
            broken[made.id] = f"it goes on from {lacking[0]}, which is missing, damaged or cannot be restored either"
        else:
            whole.add(made.id)
    return broken


def verification_json(found: "Verification") -> dict[str, Any]:
    """Return what a verification found, as JSON."""
    problems = [{"file": file, "problem": problem} for file, problem in found.problems]
    return asdict(found) | {"problems": problems, "duration_s": round(found.duration_s, 3)}


def show_verification(console: Console, found: "Verification") -> None:
    """Print each problem in a line of its own, then how the verification ended."""
    for file, problem in found.problems:
        console.print(printable(f"{file}: {problem}"), style="red", soft_wrap=True)
    for one in (found.drill or {"collections": []})["collections"]:
        console.print(printable(_drilled(one)), soft_wrap=True)
    read = f"{found.chunks:,} chunks, {found.files:,} files, {decimal(found.size_bytes)}"
    ended = "good" if found.ok else f"NOT good, {len(found.problems):,} found wrong"
    console.print(f"{found.backup_id}: {ended} ({found.depth}; {read}; {duration(found.duration_s)}).", soft_wrap=True)


def _drilled(one: dict[str, Any]) -> str:
    recall = "too small for a recall"
    if one["recall"] is not None:
        interval = f"{one['recall_low']:.3f} to {one['recall_high']:.3f}"
        recall = f"recall@10 {one['recall']:.3f} ({interval}; target {one['recall_target']:g})"
    return (
        f"{one['name']}: {one['chunks']:,} chunks restored into {one['backend']} and all the same, "
        f"{one['identical_exact']:,} of {one['queries']:,} exact searches identical, {recall}"
    )


def restored_json(restored: "Restored") -> dict[str, Any]:
    """Return what was restored, as JSON."""
    return asdict(restored) | {
        "snapshot_at": _json_time(restored.snapshot_at),
        "duration_s": round(restored.duration_s, 3),
    }


def show_restored(console: Console, restored: "Restored") -> None:
    """Print each collection that is there again, and what it took."""
    table = _table("collection", "documents", "chunks", "backend", "loaded in", "indexed in")
    for one in restored.collections:
        name = one.name if one.name == one.source else f"{one.name} (was {one.source})"
        counts = f"{one.documents:,}", f"{one.chunks:,}"
        table.add_row(name, *counts, one.backend, duration(one.load_s), duration(one.index_s))
    _print(console, table)
    replaced = f" in the place of {', '.join(restored.replaced)}" if restored.replaced else ""
    console.print(
        f"Restored from {restored.backup_id}, as it was at {_time(restored.snapshot_at)} UTC{replaced}, "
        f"in {duration(restored.duration_s)}.",
        soft_wrap=True,
    )


def pruned_json(pruned: "Pruned", *, dry_run: bool) -> dict[str, Any]:
    """Return what was removed, as JSON."""
    return {
        "dry_run": dry_run,
        "kept": pruned.kept,
        "reasons": pruned.reasons,
        "removed": pruned.removed,
        "incomplete_removed": pruned.incomplete_removed,
        "damaged": _damaged_json(pruned.damaged),
        "freed_bytes": pruned.freed_bytes,
    }


def show_pruned(console: Console, pruned: "Pruned", *, dry_run: bool) -> None:
    """Print what was removed, and of what stays beyond the newest, why."""
    for id_, reason in pruned.reasons.items():
        console.print(printable(f"{id_}: kept: {reason}"), soft_wrap=True)
    for id_, damage in pruned.damaged.items():
        console.print(printable(f"{id_}: kept, since it is damaged: {damage}"), style="red", soft_wrap=True)
    for id_ in [*pruned.removed, *pruned.incomplete_removed]:
        console.print(f"{id_}: {'would be removed' if dry_run else 'removed'}", soft_wrap=True)
    count = len(pruned.removed) + len(pruned.incomplete_removed)
    freed = f"{decimal(pruned.freed_bytes)} {'would be freed' if dry_run else 'freed'}"
    gone = "to remove" if dry_run else "removed"
    console.print(f"{len(pruned.kept):,} kept, {count:,} {gone}, {freed}.", soft_wrap=True)


def _listing_table(found: "Listing") -> Table:
    table = _table("backup", "kind", "when (UTC)", "collections", "chunks", "size", "verified (UTC)")
    for made in found.complete:
        table.add_row(
            made.id,
            made.kind,
            _time(made.snapshot_at),
            str(len(made.collections)),
            f"{sum(entry.chunks for entry in made.collections):,}",
            decimal(made.size_bytes),
            _verified(found.verifications.get(made.id)),
        )
    return table


def _listed_json(made: "Manifest", found: "Listing", problem: str | None) -> dict[str, Any]:
    verified = found.verifications.get(made.id)
    return {
        "id": made.id,
        "kind": made.kind,
        "snapshot_at": _json_time(made.snapshot_at),
        "collections": [
            {"name": one.name, "documents": one.documents, "chunks": one.chunks, "parent": one.parent}
            for one in made.collections
        ],
        "chunks": sum(entry.chunks for entry in made.collections),
        "size_bytes": made.size_bytes,
        "restorable": problem is None,
        "problem": problem,
        "verified": None if verified is None else verified.model_dump(mode="json", exclude={"backup_id"}),
    }


def _damaged_json(damaged: dict[str, BackupDamaged]) -> list[dict[str, str]]:
    return [{"id": id_, "file": damage.file, "problem": damage.problem} for id_, damage in damaged.items()]


def _verified(verified: "Verifications | None") -> str:
    """What counts of the verifications: a failure until something as deep proved good, else the deepest proof."""
    if verified is None:
        return "never"
    if _failed_last(verified):
        assert verified.failed is not None
        return f"FAILED ({verified.failed.depth}) {_time(verified.failed.verified_at)}"
    good = verified.proven or verified.last
    return f"{good.depth} {_time(good.verified_at)}"


def _failed_last(verified: "Verifications") -> bool:
    return verified.failed is not None and not verified.is_proven


def _table(*columns: str) -> Table:
    """Return a table that ends no line within a word, so that ids can be copied and searched for."""
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
    for name in columns:
        table.add_column(name, justify="right" if name in _NUMBERS else "left", no_wrap=True)
    return table


def _print(console: Console, table: Table) -> None:
    table.width = console.measure(table, options=console.options.update(width=_WIDEST)).maximum
    console.print(table, soft_wrap=True)


def _time(when: datetime) -> str:
    return f"{when.astimezone(UTC):%Y-%m-%d %H:%M:%S}"


def _json_time(when: datetime) -> str:
    return when.astimezone(UTC).isoformat()
