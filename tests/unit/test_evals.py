"""Evaluations, against rankings small enough to work out by hand."""

from collections.abc import Callable
from math import log2
from pathlib import Path

import pytest

from backends.errors import InvalidInput
from ops.evals import evaluate, rank_documents
from ops.judgements import read_judgements, read_queries
from retrieval.documents import Hit

Write = Callable[[str, str], Path]


def chunk(document_id: str, score: float, number: int = 1) -> Hit:
    """A hit of which only document and score matter here."""
    return Hit(
        id=f"{document_id}#{number}",
        document_id=document_id,
        title="",
        score=score,
        text="text",
        metadata={},
        start=0,
        end=4,
    )


class Listed:
    """A search that answers each query from a list of its own, and remembers the top_k it was asked."""

    def __init__(self, hits: dict[str, list[Hit]]) -> None:
        self.hits = hits
        self.asked: list[int] = []

    def __call__(self, text: str, top_k: int) -> list[Hit]:
        self.asked.append(top_k)
        return self.hits[text][:top_k]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write a text into a file of this test."""

    def write_file(name: str, text: str) -> Path:
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return path

    return write_file


def test_means_over_the_judged_queries() -> None:
    """One query with its two grades the wrong way round and one that finds nothing: half of the first."""
    search = Listed({"apples": [chunk("a", 0.9), chunk("b", 0.8)], "pears": [chunk("a", 0.9)]})
    judgements = {"q1": {"a": 1, "b": 2}, "q2": {"z": 1}}
    found = evaluate(search, {"q1": "apples", "q2": "pears"}, judgements, max_top_k=1000)
    expected = (1 + 2 / log2(3)) / (2 + 1 / log2(3))
    assert found.per_query["q1"]["nDCG@10"] == pytest.approx(expected)
    assert found.means == pytest.approx({"nDCG@10": expected / 2, "recall@10": 0.5, "recall@100": 0.5, "MRR@10": 0.5})
    assert (found.queries, found.without_text, found.cut_short) == (2, 0, 0)


def test_a_query_without_a_relevant_document_is_left_out() -> None:
    """A query judged with 0 alone is not run and is in no mean."""
    search = Listed({"apples": [chunk("a", 0.9)]})
    found = evaluate(search, {"q1": "apples", "q2": "pears"}, {"q1": {"a": 1}, "q2": {"a": 0}}, max_top_k=1000)
    assert found.queries == 1
    assert found.means["MRR@10"] == 1.0


def test_a_judged_query_without_text_is_counted_aside() -> None:
    """Judgements of a query that the query file lacks are reported, not counted as a failure."""
    search = Listed({"apples": [chunk("a", 0.9)]})
    found = evaluate(search, {"q1": "apples"}, {"q1": {"a": 1}, "q9": {"a": 1}}, max_top_k=1000)
    assert (found.queries, found.without_text, found.means["nDCG@10"]) == (1, 1, 1.0)


@pytest.mark.parametrize(("judgements", "says"), [({"q9": {"a": 1}}, "'q9'"), ({"q1": {"a": 0}}, "above 0")])
def test_nothing_to_evaluate_is_refused(judgements: dict[str, dict[str, int]], says: str) -> None:
    """Where no judged query can be run there is no number, and the message says why."""
    with pytest.raises(InvalidInput, match=says):
        evaluate(Listed({}), {"q1": "apples"}, judgements, max_top_k=1000)


def test_documents_count_by_their_best_chunk() -> None:
    """Two chunks of `a` are one document, in the place of the better one."""
    search = Listed({"q": [chunk("a", 0.9, 2), chunk("b", 0.8), chunk("a", 0.7, 1)]})
    assert rank_documents(search, "q", 1000) == (["a", "b"], True)


def test_ties_go_to_the_greater_id() -> None:
    """The search orders ties by id upwards; trec_eval downwards, and so does the evaluation."""
    search = Listed({"q": [chunk("a", 0.5), chunk("b", 0.5), chunk("c", 0.5)]})
    assert rank_documents(search, "q", 1000)[0] == ["c", "b", "a"]


def test_more_hits_are_asked_for_until_a_hundred_documents() -> None:
    """With three chunks a document, 200 hits are 67 documents; 400 hold the hundred."""
    hits = [chunk(f"d{number // 3:03}", 1 - number / 1000, number % 3) for number in range(600)]
    search = Listed({"q": hits})
    ranking, complete = rank_documents(search, "q", 1000)
    assert search.asked == [200, 400]
    assert (ranking, complete) == ([f"d{number:03}" for number in range(100)], True)


def test_the_most_hits_that_may_be_asked_for_end_the_search() -> None:
    """Where the limit comes before the hundredth document, the ranking is what there is and says so."""
    hits = [chunk(f"d{number // 10}", 1 - number / 1000, number % 10) for number in range(900)]
    search = Listed({"q": hits})
    ranking, complete = rank_documents(search, "q", 300)
    assert search.asked == [200, 300]
    assert (len(ranking), complete) == (30, False)
    assert evaluate(search, {"1": "q"}, {"1": {"d0": 1}}, max_top_k=300).cut_short == 1


def test_a_failing_search_fails_the_evaluation() -> None:
    """No mean is made of the queries that happened to work."""
    with pytest.raises(KeyError, match="pears"):
        evaluate(
            Listed({"apples": [chunk("a", 0.9)]}),
            {"q1": "apples", "q2": "pears"},
            {"q1": {"a": 1}, "q2": {"a": 1}},
            max_top_k=1000,
        )


@pytest.mark.parametrize(
    "text",
    [
        "query-id\tcorpus-id\tscore\nq1\td 1\t2\nq1\td2\t0\nq2\td1\t-1\n",
        "q1\td 1\t2\nq1\td2\t0\nq2\td1\t-1",
        "q1\t0\td 1\t2\r\nq1\t0\td2\t0\r\n\r\nq2\t0\td1\t-1\r\n",
        "\ufeffquery-id\t0\tcorpus-id\tscore\nq1\t0\td 1\t2\nq1\t0\td2\t0\nq2\t0\td1\t-1\n",
    ],
    ids=["header", "bare", "trec", "byte-order mark"],
)
def test_qrels_with_and_without_header(write: Write, text: str) -> None:
    """Three columns or TREC's four, with a header or without, mean the same."""
    assert read_judgements(write("qrels.tsv", text)) == {"q1": {"d 1": 2, "d2": 0}, "q2": {"d1": -1}}


def test_qrels_separated_by_spaces(write: Write) -> None:
    """TREC's own files have spaces between the columns; ids that look like numbers stay text."""
    assert read_judgements(write("qrels.txt", "1 0 184 3\n1 0 29 1\n")) == {"1": {"184": 3, "29": 1}}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("q1\td1\t1\nq1\td2\tgood\n", r"line 2: the grade 'good'"),
        ("q1\td1\t1\nq1\td2\n", r"line 2: 2 columns"),
        ("q1\td1\t1\nq1\td1\t2\n", r"line 2: 'd1' has two different grades"),
    ],
)
def test_faulty_qrels_name_the_line(write: Write, text: str, says: str) -> None:
    """A judgement that cannot be read is named by its line, not left out."""
    with pytest.raises(InvalidInput, match=says):
        read_judgements(write("qrels.tsv", text))


def test_queries_are_read_by_their_lines(write: Write) -> None:
    r"""Lines end at \n alone: other separators may stand inside a text."""
    path = write("queries.jsonl", '{"_id": "1", "text": "one\u2028two"}\n\n{"id": 2, "text": "three"}\n')
    assert read_queries(path) == {"1": "one\u2028two", "2": "three"}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('{"_id": "1", "text": "a"}\n{"_id": "2"}\n', "line 2"),
        ("[1]\n", "line 1"),
        ("no json\n", "line 1"),
        ('{"_id": "1", "text": " "}\n', "line 1"),
        ('{"_id": "1", "text": "a"}\n{"_id": "1", "text": "b"}\n', "line 2: the id '1' was there before"),
    ],
)
def test_faulty_queries_name_the_line(write: Write, text: str, says: str) -> None:
    """A query that cannot be read is named by its line."""
    with pytest.raises(InvalidInput, match=says):
        read_queries(write("queries.jsonl", text))


def test_a_file_that_is_not_there_or_not_text_is_refused(tmp_path: Path) -> None:
    """A missing file and bytes that are not UTF-8 are named by the option that they came with."""
    with pytest.raises(InvalidInput, match=r"queries: .*No such file"):
        read_queries(tmp_path / "missing.jsonl")
    (tmp_path / "latin.tsv").write_bytes(b"q1\td\xf6\t1\n")
    with pytest.raises(InvalidInput, match=r"qrels: .*not UTF-8"):
        read_judgements(tmp_path / "latin.tsv")
