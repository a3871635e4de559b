"""Bad input: an exit status that scripts can rely on, one clear line, and nothing changed."""

import json
import os
import pty
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.acceptance.command import Done, Ragstone


@pytest.fixture(scope="module")
def small(ragstone: Ragstone, tmp_path_factory: pytest.TempPathFactory) -> Ragstone:
    """The command, where the collection `small` holds one document."""
    path = tmp_path_factory.mktemp("small") / "one.txt"
    path.write_text("One small document.", encoding="utf-8")
    ragstone.ingest("small", path)
    return ragstone


def refused(done: Done, status: int, code: str, says: str) -> None:
    """Check a refusal: its status, one line for people, and the same as JSON."""
    assert done.status == status, done.err
    assert done.json["error"]["code"] == code
    assert says in done.json["error"]["message"]
    assert says in done.err
    assert "Traceback" not in done.err
    assert len(done.err.strip().splitlines()) == 1, done.err


WRONG = [
    (["retrieve", "nowhere", "q"], "collection_not_found", "nowhere"),
    (["retrieve", "a/b", "q"], "invalid_name", "a/b"),
    (["retrieve", "small", " "], "invalid_input", "query"),
    (["retrieve", "small", "q", "--top-k", "0"], "usage", "--top-k"),
    (["retrieve", "small", "q", "--top-k", "1000000"], "invalid_input", "top_k"),
    (["retrieve", "small", "q", "--filter", "{"], "invalid_filter", "not JSON"),
    (["retrieve", "small", "q", "--filter", '{"a": {"$near": 1}}'], "invalid_filter", "$near"),
    (["retrieve", "small", "q", "--filter", '{"a\' OR 1=1 --": 1}'], "invalid_filter", "a' OR 1=1 --"),
    (["retrieve", "small", "q", "--filter", "[1]"], "invalid_filter", "filter"),
    (["retrieve", "small", "q", "--mode", "hybrid"], "not_built_yet", "hybrid"),
    (["retrieve", "small", "q", "--mode", "psychic"], "usage", "psychic"),
    (["retrieve", "small"], "usage", "QUERY"),
    (["ask", "small", "q", "--data", "x"], "usage", "before the command"),
    (["collections", "create", "small"], "collection_exists", "small"),
    (["collections", "create", "quo'te"], "invalid_name", "quo'te"),
    (["collections", "create", "n" * 10_000], "invalid_name", "name"),
    (["collections", "create", "new", "--embedding-model", "other"], "model_mismatch", "other"),
    (["collections", "create", "new", "--embedding-model", "hashing", "--dimension", "3"], "invalid_input", "one"),
    (["collections", "delete", "small"], "invalid_input", "--yes"),
    (["ingest", "new", "missing.txt"], "invalid_input", "missing.txt"),
    (["ingest", "a/b", str(Path(__file__).parent)], "invalid_name", "a/b"),
    (["ingest", "new", __file__], "invalid_input", ".py"),
    (["ingest", "new", str(Path(__file__).parent)], "invalid_input", "found no"),
    (["eval", "small", "--queries", "missing", "--qrels", "missing"], "invalid_input", "queries"),
    (["backup", "create"], "usage", "--repo"),
    (["backup", "create", "--repo", "ftp://me:geheim@host/backups"], "invalid_input", "ftp"),
    (["backup", "list", "--repo", "s3://me:geheim@bucket"], "invalid_input", "credentials"),
    (["backup", "list", "--repo", "missing"], "invalid_input", "missing"),
    (["backup", "verify", "--repo", ".", "--depth", "half"], "usage", "half"),
    (["backup", "verify", "20261125T143012.123456Z-full", "--repo", "."], "backup_not_found", "20261125T143012"),
    (["backup", "restore", "--repo", ".", "--at", "yesterday"], "invalid_input", "ISO 8601"),
    (["backup", "restore", "../../etc", "--repo", "."], "backup_not_found", "../../etc"),
    (["backup", "prune", "--repo", ".", "--keep-last", "0"], "usage", "--keep-last"),
    (["recall", "measure", "nowhere"], "collection_not_found", "nowhere"),
    (["recall", "tune", "small", "--target", "2"], "invalid_input", "target"),
    (["move", "start", "small", "--to", "nowhere"], "invalid_input", "--to"),
    (["health", "nowhere"], "collection_not_found", "nowhere"),
    (["cost", "report", "--by", "team"], "invalid_input", "--by"),
    (["frobnicate"], "usage", "frobnicate"),
]


@pytest.fixture(scope="module")
def outcomes(small: Ragstone) -> list[Done]:
    """What came of each command of WRONG, which run a few at a time."""
    with ThreadPoolExecutor(3) as pool:
        return list(pool.map(lambda case: small(*case[0], "--json"), WRONG))


@pytest.mark.parametrize("number", range(len(WRONG)), ids=lambda number: " ".join(WRONG[number][0])[:60])
def test_wrong_usage_ends_with_status_2(outcomes: list[Done], number: int) -> None:
    """What the caller can mend names itself in one line, and as JSON where that was asked for."""
    _, code, says = WRONG[number]
    refused(outcomes[number], 2, code, says)


def test_nothing_was_changed_by_bad_input(small: Ragstone, outcomes: list[Done]) -> None:
    """After all of these, the collection is as it was, and none of the refused ones was made."""
    listed = small("collections", "list", "--json").json["collections"]
    assert "new" not in {info["name"] for info in listed}
    assert small("collections", "show", "small", "--json").json["documents"] == 1


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (b'{"_id": "x", "text": "zero \\u0000 byte"}', "NUL"),
        (b'{"_id": "x", "text": "gr\xf6\xdfe"}', "UTF-8"),
        (b'{"_id": "x"}', "text"),
        (b'{"_id": "x", "text": "fine", "metadata": [1]}', "metadata"),
        (b"not json", "JSON"),
    ],
)
def test_a_bad_line_is_a_finding(small: Ragstone, tmp_path: Path, line: bytes, says: str) -> None:
    """A .jsonl line that cannot be kept is named by its number with status 1; the lines before it are kept."""
    path = tmp_path / "lines.jsonl"
    path.write_bytes(b'{"_id": "before", "text": "A fine line."}\n' + line + b"\n")
    done = small("ingest", "lines", path, "--json")
    assert done.status == 1
    assert done.json["upserted"] + done.json["unchanged"] == 1
    (failed,) = done.json["failed_files"]
    assert "line 2" in failed["problem"]
    assert says in failed["problem"]


def test_texts_for_a_collection_of_own_embeddings_are_refused(small: Ragstone, planets: Path) -> None:
    """A collection made with a dimension takes no text, and says what would."""
    small("collections", "create", "vectors", "--dimension", "3")
    refused(small("ingest", "vectors", planets, "--json"), 2, "conflict", "upsert_embeddings")


def test_a_question_to_a_missing_folder_makes_no_corpus(tmp_path: Path) -> None:
    """A mistyped --data is named, and no empty corpus is left there."""
    data = tmp_path / "mistyped"
    refused(Ragstone(data)("retrieve", "small", "q", "--json"), 2, "invalid_settings", "mistyped")
    assert not data.exists()


def test_a_data_folder_that_cannot_be_written_is_a_setting(tmp_path: Path) -> None:
    """A data folder below a file is a wrong setting, not a fault."""
    (tmp_path / "file").write_text("not a folder", encoding="utf-8")
    refused(Ragstone(tmp_path / "file" / "data")("collections", "create", "x", "--json"), 2, "invalid_settings", "data")


def test_a_wrong_setting_is_named(small: Ragstone) -> None:
    """An environment variable that does not fit is named, with what was found."""
    done = small("collections", "list", "--json", RAGSTONE_POOL_SIZE="many")
    refused(done, 2, "invalid_settings", "pool_size")


def test_a_server_out_of_reach_ends_with_status_3() -> None:
    """PostgreSQL that does not answer is neither the caller's fault nor ours; its password is not shown."""
    nowhere = Ragstone("postgresql://me:geheim@127.0.0.1:1/nowhere")
    done = nowhere("collections", "list", "--json")
    refused(done, 3, "corpus_unavailable", "127.0.0.1")
    assert "geheim" not in done.out + done.err


def test_a_port_in_use_ends_with_status_3(small: Ragstone) -> None:
    """A taken port is named before anything is started."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = small("serve", "--port", port)
    assert done.status == 3
    assert str(port) in done.err


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "example.org"])
def test_serving_others_needs_insecure(small: Ragstone, host: str) -> None:
    """Without API keys, another host than loopback is refused with the reason."""
    done = small("serve", "--host", host)
    assert done.status == 2
    assert "--insecure" in done.err
    assert "API keys" in done.err


def test_debug_shows_the_traceback(small: Ragstone) -> None:
    """RAGSTONE_DEBUG=1 and --verbose show where an error comes from."""
    assert "Traceback" in small("retrieve", "nowhere", "q", RAGSTONE_DEBUG="1").err
    data = small.data
    assert "Traceback" in Ragstone(data)("--verbose", "retrieve", "nowhere", "q").err


def test_deleting_asks_on_a_terminal(small: Ragstone, planets: Path) -> None:
    """On a terminal the question names what would go; no leaves it, yes deletes it."""
    small.ingest("doomed", planets)
    for answer, status in (b"n\n", 1), (b"y\n", 0):
        ours, theirs = pty.openpty()
        os.write(ours, answer)
        done = small("collections", "delete", "doomed", stdin=theirs)
        os.close(ours)
        os.close(theirs)
        assert done.status == status
        assert "3 documents" in done.err
    assert small("collections", "show", "doomed").status == 2


def test_help_lists_every_command(small: Ragstone) -> None:
    """The help lists every pinned command, and none that is still to come."""
    shown = small("--help")
    assert shown.status == 0
    pinned = "demo serve ingest retrieve ask collections move backup health recall latency eval status cost"
    assert [name for name in pinned.split() if name not in shown.out] == []
    assert "not built yet" not in shown.out.lower()


def test_a_document_cannot_steer_the_terminal(small: Ragstone, tmp_path: Path) -> None:
    """Control characters of a document are not sent to the terminal."""
    path = tmp_path / "escape.jsonl"
    path.write_text(json.dumps({"_id": "e", "text": "clear \x1b[2J the screen"}) + "\n", encoding="utf-8")
    small.ingest("escapes", path)
    assert "\x1b" not in small("retrieve", "escapes", "clear the screen").out
    assert "\x1b" not in small("ask", "escapes", "clear the screen").out
