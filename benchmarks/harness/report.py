"""The report: one HTML file with tables and plots, and the plots as PNGs beside it."""

import json
import re
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.harness.markup import Row, number, page, paragraph, picture, section, spread, table
from benchmarks.harness.plots import concurrency_plots, grouped, growth_plots, recall_plots
from benchmarks.harness.targets import TARGETS, Standing, standings

Json = dict[str, Any]
NOTES = Path(__file__).with_name("notes.toml")
NAMED = ("recall", "effort", "limit", "numerics", "ndcg", "ndcg_single")
"""What a figure may say about itself, beside its value."""

MIB = 1 << 20


def write_report(results: list[Json], stem: Path) -> Path:
    """Write `stem`.html and its PNGs, and return the path of the first."""
    body = [
        _runs(results),
        _targets(results),
        section("Search", *_pictures(recall_plots(results), stem), *_searches(results)),
        section("Filters", *_filters(results)),
        section("Ingest", *_ingests(results)),
        section("Disk and memory", *_loads(results)),
        section("Batches on FAISS", *_batches(results)),
        section("HTTP", *_pictures(concurrency_plots(results), stem), *_http(results)),
        section("Growth", *_pictures(growth_plots(results), stem), _growth(results)),
        section("Questions in words, by stage", _texts(results)),
        section("Start to first answer", _startup(results)),
        section("Figures without a target", _others(results)),
        section("Programs of their own", *_scripts(results)),
        section("What was run", _parts(results)),
        section("What failed and what was skipped", _failures(results)),
    ]
    path = stem.with_name(f"{stem.name}.html")
    path.write_text(page("Ragstone beside its peers and the limit", body), encoding="utf-8")
    return path


def _pictures(plots: Iterator[tuple[str, bytes]], stem: Path) -> Iterator[str]:
    for words, png in plots:
        name = re.sub(r"[^a-z0-9]+", "-", words.lower()).strip("-")
        stem.with_name(f"{stem.name}-{name}.png").write_bytes(png)
        yield picture(png, words)


def _runs(results: list[Json]) -> str:
    runs = {json.dumps(one["run"], sort_keys=True): one["run"] for one in results}.values()
    rows = []
    for run in runs:
        machine = run["machine"]
        words = f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_gib']} GiB, {machine['system']}"
        versions = ", ".join(f"{name} {version}" for name, version in run["versions"].items())
        load = f"{machine['load_1_min']:.2f}"
        rows.append(Row([run["started_at"], run["size"], run["commit"], str(run["seed"]), words, load, versions]))
    explained = (
        "Every table compares what was measured in one run, in rounds that take turns. A figure is the median of the "
        "rounds, with the lowest and the highest in brackets. How it is measured stands in benchmarks/README.md."
    )
    headings = ("started", "size", "commit", "seed", "machine", "load before", "versions")
    return paragraph(explained) + table(headings, rows)


def _targets(results: list[Json]) -> str:
    notes = tomllib.loads(NOTES.read_text(encoding="utf-8"))
    found = standings(results)
    rows = [_target(standing, notes.get(standing.target.figure, {})) for standing in found]
    counts = {verdict: sum(one.verdict == verdict for one in found) for verdict in ("met", "missed", "not measured")}
    words = ", ".join(f"{count} {verdict}" for verdict, count in counts.items())
    headings = ("target", "limit", "where", "found", "verdict", "misses by", "why, and what was tried")
    return section("Targets", paragraph(words), table(headings, rows))


def _target(standing: Standing, note: Json) -> Row:
    target, value, detail = standing.target, standing.value, standing.detail
    limit = f"{target.bound} {target.limit:g}"
    if value is None:
        return Row([target.words, limit, "", "-", standing.verdict, "", ""], "not")
    shown = spread(detail | {"median": value}) if "lowest" in detail else number(value)
    missed = standing.verdict == "missed"
    share = target.miss(value)
    by = "" if not missed else f"{share:.1%}" if share != float("inf") else number(value)
    more = [f"{name}: {detail[name]}" for name in NAMED if name in detail]
    why = note.get("why", "") if missed else ""
    where = "; ".join([standing.where, *more])
    return Row([target.words, limit, where, shown, standing.verdict, by, why], standing.verdict)


def _searches(results: list[Json]) -> Iterator[str]:
    headings = ("peer", "ef_search", "recall@10", "p50 ms", "p99 ms", "queries/s", "short answers")
    for where, found in grouped(results, "search", "where"):
        rows = [
            _row(one, one["effort"], one["recall"], *_times(one), spread(one["queries_per_s"]), one["short_answers"])
            for one in sorted(found, key=lambda one: (one["effort"], one["p50_ms"]["median"]))
        ]
        yield paragraph(where) + table(headings, rows)


def _filters(results: list[Json]) -> Iterator[str]:
    headings = ("peer", "filter matches", "relation to the query", "recall@10", "p50 ms", "p99 ms", "short answers")
    for where, found in grouped(results, "filter", "where"):
        rows = [
            _row(one, one["share"], one["relation"], one["recall"], *_times(one), one["short_answers"]) for one in found
        ]
        yield paragraph(where) + table(headings, rows)


def _ingests(results: list[Json]) -> Iterator[str]:
    for where, found in grouped(results, "ingest", "where"):
        rows = [_row(one, spread(one["stored_rows_per_s"]), spread(one["rows_per_s"])) for one in found]
        yield paragraph(where) + table(("peer", "rows/s until a search finds all", "until the index has all"), rows)


def _loads(results: list[Json]) -> Iterator[str]:
    headings = (
        "peer",
        "load s",
        "rows/s",
        "bytes/vector (MB per million)",
        "of components alone",
        "MiB more in the process",
        "start s",
    )
    for where, found in grouped(results, "load", "where"):
        rows = [
            _row(
                one,
                one["load_s"],
                one["rows_per_s"],
                one["bytes_per_vector"],
                one["least_bytes_per_vector"],
                one["memory_grown_bytes"] / MIB,
                one["start_s"],
            )
            for one in found
        ]
        yield paragraph(f"{where}; text and metadata included where the peer stores them") + table(headings, rows)


def _batches(results: list[Json]) -> Iterator[str]:
    for where, found in grouped(results, "batches", "where"):
        rows = [_row(one, one["batch"], one["recall"], *_times(one), spread(one["queries_per_s"])) for one in found]
        yield paragraph(where) + table(("peer", "batch", "recall@10", "p50 ms", "p99 ms", "queries/s"), rows)


def _http(results: list[Json]) -> Iterator[str]:
    headings = (
        "server",
        "clients",
        "queries/s",
        "p50 ms",
        "p99 ms",
        "recall@10",
        "failed or short",
        "server's CPU ms",
        "client's CPU",
    )
    for where, found in grouped(results, "http", "where"):
        rows = [
            Row(
                [
                    one["server"],
                    one["clients"],
                    spread(one["queries_per_s"]),
                    *_times(one),
                    one["recall"],
                    one["incomplete_answers"],
                    spread(one.get("server_cpu_ms")),
                    spread(one["client_cpu_share"]),
                ],
                _shown_as(one["server"]),
            )
            for one in sorted(found, key=lambda one: (one["clients"], -one["queries_per_s"]["median"]))
        ]
        yield paragraph(where) + table(headings, rows)


def _growth(results: list[Json]) -> str:
    headings = (
        "peer",
        "vectors",
        "recall@10",
        "p50 ms",
        "p99 ms",
        "load s",
        "bytes/vector (MB per million)",
        "of the content alone",
        "of components alone",
        "bytes/vector more in the process",
        "of half precision and links",
    )
    rows = [
        _row(
            one,
            one["rows"],
            one["recall"],
            *_times(one),
            one["load_s"],
            one["bytes_per_vector"],
            one.get("least_stored_per_vector"),
            one["least_bytes_per_vector"],
            one["memory_grown_bytes"] / one["rows"],
            one.get("least_memory_per_vector"),
        )
        for one in results
        if one["what"] == "growth"
    ]
    return table(headings, rows)


def _texts(results: list[Json]) -> str:
    rows = [
        Row([one["where"], stage, spread(values)])
        for one in results
        if one["what"] == "text"
        for stage, values in one["p50_ms"].items()
    ]
    return table(("documents", "stage", "p50 ms"), rows)


def _startup(results: list[Json]) -> str:
    rows = [Row([one["way"], spread(one["first_answer_s"])]) for one in results if one["what"] == "startup"]
    return table(("way", "seconds"), rows)


def _scripts(results: list[Json]) -> Iterator[str]:
    for script, found in grouped(results, "script", "script"):
        lines = "\n".join(json.dumps(one["found"]) for one in found).replace("&", "&amp;").replace("<", "&lt;")
        yield paragraph(f"benchmarks.{script}") + f"<pre>{lines}</pre>"


def _others(results: list[Json]) -> str:
    targeted = {target.figure for target in TARGETS}
    rows = [
        Row([one["figure"], one["where"], one["value"]])
        for one in results
        if one["what"] == "figure" and one["figure"] not in targeted
    ]
    return table(("figure", "where", "value"), rows)


def _parts(results: list[Json]) -> str:
    """A load well above 1 before the first part means that others used the machine: ratios count then, times do not."""
    rows = [Row([one["part"], one["took_s"], one.get("load_before")]) for one in results if one["what"] == "part"]
    return table(("part", "seconds", "load of the machine before it"), rows)


def _failures(results: list[Json]) -> str:
    rows = [Row([one["part"], one["why"]], "missed") for one in results if one["what"] == "failure"]
    rows += [Row([one["script"], one["why"]], "not") for one in results if one["what"] == "skipped"]
    return table(("part", "why"), rows)


def _row(one: Json, *cells: Any) -> Row:
    return Row([one["peer"], *cells], _shown_as(one["peer"]))


def _times(one: Json) -> Sequence[str]:
    return spread(one["p50_ms"]), spread(one["p99_ms"])


def _shown_as(name: str) -> str:
    return "ours" if name.startswith("ragstone") else ""
