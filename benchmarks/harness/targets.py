"""Every target, as data: the figure that it is set for, the limit, and what it means."""

from dataclasses import dataclass
from typing import Any, Literal

Json = dict[str, Any]
ONE_MILLION = "10,000 to 1,000,000 x 128"


@dataclass(frozen=True)
class Target:
    """`figure` must be at most or at least `limit` wherever it is measured, or where `only` stands in its `where`."""

    figure: str
    bound: Literal["at most", "at least"]
    limit: float
    words: str
    only: str = ""

    def is_met(self, value: float) -> bool:
        """Whether a value keeps the limit."""
        return value <= self.limit if self.bound == "at most" else value >= self.limit

    def miss(self, value: float) -> float:
        """By what share of the limit a value misses it; 0 where it is met, infinite where the limit is 0."""
        if self.is_met(value):
            return 0.0
        return abs(value - self.limit) / self.limit if self.limit else float("inf")


def _at_most(figure: str, limit: float, words: str, only: str = "") -> Target:
    return Target(figure, "at most", limit, words, only)


def _at_least(figure: str, limit: float, words: str, only: str = "") -> Target:
    return Target(figure, "at least", limit, words, only)


TARGETS = (
    _at_most("search.ragstone_over_raw_tuned", 1.10, "library search on pgvector, times raw psycopg tuned (p50)"),
    _at_most("search.over_raw_same_tables", 1.10, "the same, times raw psycopg on the library's own tables (p50)"),
    _at_least("search.langchain_postgres_over_ragstone", 2.5, "langchain-postgres, times ours (p50, equal recall)"),
    _at_least("search.llama_index_over_ragstone", 2.5, "llama-index, times ours (p50, equal recall)"),
    _at_least("search.haystack_over_ragstone", 2.5, "pgvector-haystack, times ours (p50, equal recall)"),
    _at_least("filter.ragstone.recall", 0.99, "recall with a filter, on pgvector"),
    _at_most("filter.ragstone.short_answers", 0, "answers with fewer hits than match, on pgvector"),
    _at_most("filter.ragstone.p50_ms", 2.0, "p50 with an unrelated filter, on pgvector, 30,000 rows (ms)", " 30,000 x"),
    _at_most("filter.ragstone_over_raw", 1.2, "with a filter, times the faster of raw ANN and raw exact (p50)"),
    _at_most("filter.over_raw_same_tables", 1.2, "the same on the library's own tables, of raw with recall 0.99"),
    _at_least("ingest.share_of_copy", 0.7, "new ids, share of the speed of pre-encoded binary COPY"),
    _at_least("ingest.replace_share_of_copy", 0.5, "replaced ids, share of the speed of pre-encoded binary COPY"),
    _at_least("ingest.over_langchain_postgres", 20, "ingest until a search finds all, times langchain-postgres"),
    _at_least("ingest.until_indexed_over_langchain_postgres", 20, "the same until HNSW has all, built by PostgreSQL"),
    _at_least("http.share_of_minimal", 0.8, "queries a second at 32 clients, share of the minimal service's"),
    _at_most("http.p99_over_minimal", 1.25, "p99 at 32 clients, times the minimal service's"),
    _at_least("http.over_chroma", 1.0, "queries a second at 32 clients, times Chroma's server"),
    _at_least("http.over_txtai", 1.0, "queries a second at 32 clients, times txtai's API"),
    _at_least("faiss.adapter_share", 0.9, "batches of 32: the adapter's queries a second, share of plain FAISS's"),
    _at_least("faiss.library_share", 0.5, "batches of 32: the library's, share of plain FAISS and one fetch of texts"),
    _at_most("faiss.single_more_ms", 1.0, "a single search on FAISS, more than plain FAISS (ms at p50)"),
    _at_most("embedding.query_p50_over_encode", 0.35, "embedding a query, times sentence-transformers' encode (p50)"),
    _at_least("embedding.passages_over_encode", 2.0, "passages of 120 tokens a second, times encode's"),
    _at_least("embedding.callers_over_encode", 6.0, "queries a second of 32 callers, times encode's of one"),
    _at_most("embedding.ndcg_from_single", 0.005, "nDCG@10 on real collections, how far from single precision's"),
    _at_most("growth.ragstone", 3.0, "p50 on pgvector at 1,000,000 vectors of 128, times 10,000", ONE_MILLION),
    _at_most("growth.ragstone_faiss", 3.0, "p50 on FAISS at 1,000,000 vectors of 128, times 10,000", ONE_MILLION),
)


@dataclass(frozen=True)
class Standing:
    """A target and a figure of it; `value` is None where nothing was measured, and `where` then says nothing."""

    target: Target
    value: float | None
    where: str
    detail: Json

    @property
    def verdict(self) -> Literal["met", "missed", "not measured"]:
        """How the target stands."""
        if self.value is None:
            return "not measured"
        return "met" if self.target.is_met(self.value) else "missed"


def standings(results: list[Json]) -> list[Standing]:
    """Each target with each figure of it, in the order of the targets; one without a figure stands there, too."""
    found = []
    for target in TARGETS:
        figures = [
            one
            for one in results
            if one["what"] == "figure" and one["figure"] == target.figure and target.only in one["where"]
        ]
        found += [Standing(target, one["value"], one["where"], one) for one in figures]
        found += [] if figures else [Standing(target, None, "", {})]
    return found
