"""The plots of the report, as PNGs."""

from collections.abc import Iterator, Sequence
from io import BytesIO
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

Json = dict[str, Any]
Points = list[tuple[float, float]]
INCHES = (8.0, 4.8)
DOTS_PER_INCH = 110
OURS_WIDTH, WIDTH = 2.8, 1.4
MARKERS = "osD^vPX*<>ph"
FIRST = ("ragstone", "ragstone_faiss", "raw_tuned", "raw_psycopg", "plain_faiss", "faiss_texts", "faiss_adapter")
"""Whose colours are the same in every plot; servers and peers follow in the order of their names."""


def recall_plots(results: Sequence[Json]) -> Iterator[tuple[str, bytes]]:
    """Recall against queries a second on each data set: the farther up and right, the better."""
    for where, found in grouped(results, "search", "where"):
        lines = _lines(found, "peer", lambda one: (one["recall"], 1e3 / one["p50_ms"]["median"]))
        figure, axes = _new(f"One client, {where}", "recall@10", "queries per second, by the median search")
        _draw(axes, lines)
        axes.set_yscale("log")
        yield f"recall against queries per second, {where}", _png(figure)


def concurrency_plots(results: Sequence[Json]) -> Iterator[tuple[str, bytes]]:
    """Latency over HTTP against the number of clients: p50 drawn through, p99 dashed."""
    for where, found in grouped(results, "http", "where"):
        figure, axes = _new(f"HTTP, {where}", "clients", "milliseconds (p50, dashed: p99)")
        _draw(axes, _lines(found, "server", lambda one: (one["clients"], one["p50_ms"]["median"])))
        _draw(axes, _lines(found, "server", lambda one: (one["clients"], one["p99_ms"]["median"])), dashed=True)
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        yield f"latency against concurrency, {where}", _png(figure)


def growth_plots(results: Sequence[Json]) -> Iterator[tuple[str, bytes]]:
    """Latency, and bytes on disk, against the number of vectors."""
    found = [one for one in results if one["what"] == "growth"]
    if not found:
        return
    figure, axes = _new("Growth: latency", "vectors", "p50 of a search, milliseconds")
    _draw(axes, _lines(found, "peer", lambda one: (one["rows"], one["p50_ms"]["median"])))
    _at_sizes(axes, found)
    yield "latency against size", _png(figure)
    figure, axes = _new("Growth: size", "vectors", "bytes per vector, text and metadata included")
    _draw(axes, _lines(found, "peer", lambda one: (one["rows"], one["bytes_per_vector"])))
    least = found[0]["least_bytes_per_vector"]
    axes.axhline(least, color="black", linewidth=0.8, linestyle=":")
    axes.annotate("the components alone, in half precision", (found[0]["rows"], least), va="bottom", fontsize=8)
    _at_sizes(axes, found)
    yield "bytes per vector against size", _png(figure)


def grouped(results: Sequence[Json], what: str, key: str) -> Iterator[tuple[str, list[Json]]]:
    """The results of one kind, by the value of a key, in the order in which the values came."""
    found: dict[str, list[Json]] = {}
    for one in results:
        if one["what"] == what:
            found.setdefault(one[key], []).append(one)
    yield from found.items()


def _lines(found: Sequence[Json], name: str, point: Any) -> dict[str, Points]:
    lines: dict[str, Points] = {}
    for one in found:
        lines.setdefault(one[name], []).append(point(one))
    return {label: sorted(points) for label, points in lines.items()}


def _draw(axes: Axes, lines: dict[str, Points], *, dashed: bool = False) -> None:
    """A line for each name; ours are wider."""
    names = [*FIRST, *sorted(set(lines) - set(FIRST))]
    for number, name in enumerate(names):
        if name not in lines:
            continue
        across, up = zip(*lines[name], strict=True)
        axes.plot(
            across,
            up,
            color=mpl.colormaps["tab20"](2 * number % 20 + 2 * number // 20),
            marker=MARKERS[number % len(MARKERS)],
            markersize=5,
            linewidth=OURS_WIDTH if name.startswith("ragstone") else WIDTH,
            linestyle="--" if dashed else "-",
            label=None if dashed else name,
        )
    axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)


def _at_sizes(axes: Axes, found: Sequence[Json]) -> None:
    """Put the sizes that were measured on the axis, and begin the other one at 0."""
    axes.set_xscale("log")
    axes.set_xticks(sorted({one["rows"] for one in found}), minor=False)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_ylim(bottom=0)


def _new(title: str, across: str, up: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=INCHES, layout="constrained")
    axes = figure.add_subplot()
    axes.set_title(title, fontsize=11)
    axes.set_xlabel(across)
    axes.set_ylabel(up)
    axes.grid(visible=True, which="both", alpha=0.25)
    return figure, axes


def _png(figure: Figure) -> bytes:
    into = BytesIO()
    figure.savefig(into, format="png", dpi=DOTS_PER_INCH)
    return into.getvalue()
