"""Documents in, passages and answers out, through the command."""

import json
from pathlib import Path

from tests.acceptance.command import Ragstone


def test_a_folder_is_ingested_found_and_cited(ragstone: Ragstone, planets: Path) -> None:
    """After one ingest a passage is found by its words, and an answer quotes the very span that it cites."""
    done = ragstone.ingest("planets", planets)
    assert (done["created"], done["upserted"], done["unchanged"]) == (True, 3, 0)
    assert [Path(path).name for path in done["left_out"]] == ["photo.png"]

    best = ragstone("retrieve", "planets", "rings of ice", "--json").json["results"][0]
    assert (best["document_id"], best["metadata"]) == ("outer/saturn.html", {"source": "outer/saturn.html"})

    answer = ragstone("ask", "planets", "Is a day on Venus longer than its year?", "--json").json
    cited = answer["citations"][0]
    source = (planets / "inner/venus.txt").read_text(encoding="utf-8")
    assert cited["document_id"] == "inner/venus.txt"
    assert source[cited["start"] : cited["end"]] == cited["text"]
    assert "[1]" in answer["answer"]
    assert {"embed", "search"} <= set(answer["timings_ms"])


def test_repeating_writes_only_what_changed(ragstone: Ragstone, planets: Path) -> None:
    """The second ingest finds everything unchanged; after an edit, it writes that one document."""
    ragstone.ingest("edited", planets)
    again = ragstone.ingest("edited", planets)
    assert (again["created"], again["upserted"], again["unchanged"], again["chunks"]) == (False, 0, 3, 0)
    (planets / "inner/venus.txt").write_text("Venus is hidden by clouds.", encoding="utf-8")
    edited = ragstone.ingest("edited", planets)
    assert (edited["upserted"], edited["unchanged"]) == (1, 2)
    hits = ragstone("retrieve", "edited", "a day longer than a year", "--json").json["results"]
    assert [hit["text"] for hit in hits if hit["document_id"] == "inner/venus.txt"] == ["Venus is hidden by clouds."]


def test_one_bad_file_does_not_stop_the_others(ragstone: Ragstone, planets: Path) -> None:
    """A file that is not UTF-8 is named, with exit status 1, and the rest is there."""
    (planets / "inner/latin.txt").write_bytes("Größe".encode("latin-1"))
    (planets / "inner/blank.txt").write_text(" \n", encoding="utf-8")
    done = ragstone("ingest", "faulty", planets, "--json")
    assert done.status == 1
    assert (done.json["upserted"], done.json["skipped_empty"]) == (3, 1)
    assert [failed["file"] for failed in done.json["failed_files"]] == ["inner/latin.txt"]
    assert "UTF-8" in done.json["failed_files"][0]["problem"]
    shown = ragstone("ingest", "faulty", planets)
    assert shown.status == 1
    assert "inner/latin.txt" in shown.out
    assert "3 unchanged" in shown.out


def test_filters_and_top_k(ragstone: Ragstone, corpus_jsonl: Path) -> None:
    """A filter leaves what matches, and top_k is what comes back where so many match."""
    ragstone.ingest("stars", corpus_jsonl)
    wanted = ("--top-k", 5, "--filter", '{"n": {"$gte": 30}}')
    hits = ragstone("retrieve", "stars", "a star", *wanted, "--json").json["results"]
    assert len(hits) == 5
    assert all(hit["metadata"]["n"] >= 30 for hit in hits)
    assert ragstone("retrieve", "stars", "a star", "--filter", '{"n": 99}', "--json").json["results"] == []
    answer = ragstone("ask", "stars", "Which star shines?", "--filter", '{"n": 7}', "--json").json
    assert {hit["document_id"] for hit in answer["results"]} == {"d07"}


def test_people_see_tables(ragstone: Ragstone, planets: Path) -> None:
    """Without --json, the hits, the answer and the collections are shown in words."""
    ragstone.ingest("shown", planets)
    found = ragstone("retrieve", "shown", "rings of ice").out
    assert "outer/saturn.html" in found
    assert "Saturn has bright rings of ice." in found
    answer = ragstone("ask", "shown", "Is a day on Venus longer than its year?").out
    assert "[1] inner/venus.txt" in answer
    assert " ms" in answer
    assert "shown" in ragstone("collections", "list").out
    assert "cosine" in ragstone("collections", "show", "shown").out


def test_collections_are_made_shown_and_deleted(ragstone: Ragstone) -> None:
    """What create was told is what show says, and a deleted collection is gone."""
    wanted = ("--dimension", 3, "--metric", "l2", "--precision", "single", "--json")
    made = ragstone("collections", "create", "own", *wanted).json
    assert (made["dimension"], made["metric"], made["precision"], made["embedding_model"]) == (3, "l2", "single", None)
    assert ragstone("collections", "show", "own", "--json").json == made
    listed = ragstone("collections", "list", "--json").json["collections"]
    assert made in listed
    deleted = ragstone("collections", "delete", "own", "--yes", "--json")
    assert deleted.json == {"deleted": "own", "documents": 0}
    assert ragstone("collections", "show", "own").status == 2


def test_eval_measures_by_judgements(ragstone: Ragstone, tmp_path: Path) -> None:
    """Asked for a document by its own words, retrieval has it first: every measure is 1."""
    texts = {f"{n}": f"alpha{n} beta{n} gamma{n} delta{n}" for n in range(10)}
    lines = "".join(json.dumps({"_id": id_, "text": text}) + "\n" for id_, text in texts.items())
    corpus, queries, qrels = (tmp_path / name for name in ("corpus.jsonl", "queries.jsonl", "qrels.tsv"))
    corpus.write_text(lines, encoding="utf-8")
    queries.write_text(lines, encoding="utf-8")
    rows = "".join(f"{id_}\t{id_}\t1\n" for id_ in texts)
    qrels.write_text(f"query-id\tcorpus-id\tscore\n{rows}q99\t1\t1\n", encoding="utf-8")
    ragstone.ingest("judged", corpus)
    done = ragstone("eval", "judged", "--queries", queries, "--qrels", qrels, "--json")
    measures = {name: done.json[name] for name in ("nDCG@10", "recall@10", "recall@100", "MRR@10")}
    assert measures == {"nDCG@10": 1.0, "recall@10": 1.0, "recall@100": 1.0, "MRR@10": 1.0}
    assert (done.json["queries"], done.json["without_text"]) == (10, 1)
