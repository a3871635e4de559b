"""The client of an OpenAI-compatible embeddings server, against a real server on loopback."""

import base64
import json
import threading
import time
from contextlib import closing, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.errors import Busy, EmbedderUnavailable, InvalidSettings, TooLarge
from retrieval.embedding import endpoint
from retrieval.embedding.estimating import estimate_token_spans
from retrieval.embedding.hashing import HashingEmbedder
from retrieval.embedding.remote import MAX_TOKENS, PROBE, RemoteEmbedder

KEY = "sk-a-secret-key"
HASHING = HashingEmbedder()


class EmbeddingsServer:
    """Serves hashing embeddings three times their length, as base64 or numbers, out of order.

    `statuses` are given in turn before answers are; `requests` are the texts of each request.
    """

    def __init__(self):
        self.model = "served"
        self.numbers = False
        self.most_texts = 1_000
        self.dimension = 64
        self.max_model_len = None
        self.statuses = []
        self.headers = {}
        self.mangle = lambda answer: answer
        self.requests = []
        self.keys = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"

    def close(self):
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def answer(self, request):
        if self.statuses:
            return self.statuses.pop(0), {"error": {"message": f"this time not, {KEY}"}}
        if request["model"] != "served":
            return 404, {"error": {"message": "no such model"}}
        texts = request["input"]
        self.requests.append(texts)
        if len(texts) > self.most_texts:
            return 413, {"error": {"message": "batch too large"}}
        rows = 3 * HashingEmbedder(self.dimension).embed(texts, "passage")
        data = [{"index": index, "embedding": self._encoded(row)} for index, row in enumerate(rows)]
        return 200, self.mangle({"model": self.model, "data": data[::-1]})

    def _encoded(self, row):
        return row.tolist() if self.numbers else base64.b64encode(row.astype("<f4").tobytes()).decode()

    def _handler(server):  # noqa: N805  # the handler's own self is another
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                models = [{"id": server.model, "max_model_len": server.max_model_len}]
                self._reply(200 if server.max_model_len else 404, {"data": models})

            def do_POST(self):
                server.keys.append(self.headers.get("Authorization"))
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                self._reply(*server.answer(body))

            def _reply(self, status, answer):
                content = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(content)))
                for name, value in server.headers.items():
                    self.send_header(name, value)
                self.end_headers()
                with suppress(ConnectionError):  # a client that did not wait
                    self.wfile.write(content)

            def log_message(self, *_):
                """Say nothing."""

        return Handler


@pytest.fixture
def server():
    server = EmbeddingsServer()
    yield server
    server.close()


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch):
    monkeypatch.setattr(endpoint, "PAUSES_S", (0.01, 0.01))


@pytest.fixture
def embedder(server):
    embedder = RemoteEmbedder(server.url, "served", api_key=KEY)
    yield embedder
    embedder.close()


@pytest.mark.parametrize("numbers", [False, True])
def test_embeddings_come_back_in_order_and_normalised(server, embedder, numbers):
    """Base64 and numbers alike are put in the order of their index and brought to length 1."""
    server.numbers = numbers
    texts = [f"word{number}" for number in range(10)]
    embeddings = embedder.embed(texts, "passage")
    assert embeddings.dtype == np.float32
    np.testing.assert_allclose(embeddings, HASHING.embed(texts, "passage"), atol=1e-6)


def test_the_dimension_is_asked_once(server, embedder):
    """Construction costs one request, which says the dimension."""
    assert embedder.stamp.dimension == 64
    assert embedder.stamp.model == "served"
    assert server.requests == [[PROBE]]


def test_requests_are_bounded(server, embedder):
    """Many texts go in several requests."""
    texts = [f"text {number}" for number in range(150)]
    np.testing.assert_allclose(embedder.embed(texts, "passage"), HASHING.embed(texts, "passage"), atol=1e-6)
    assert [len(texts) for texts in server.requests[1:]] == [64, 64, 22]


def test_a_server_that_wants_fewer_texts_gets_fewer(server, embedder):
    """A 413 halves the request, and later requests begin with what fitted."""
    server.most_texts = 20
    texts = [f"text {number}" for number in range(40)]
    np.testing.assert_allclose(embedder.embed(texts, "passage"), HASHING.embed(texts, "passage"), atol=1e-6)
    assert [len(texts) for texts in server.requests[1:]] == [40, 20, 20]


def test_one_text_too_large_is_an_error(server, embedder):
    """A 413 for one text alone is not tried for ever."""
    server.most_texts = 0
    with pytest.raises(TooLarge):
        embedder.embed(["text"], "passage")


@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_what_may_pass_is_tried_again(server, embedder, status):
    """Two refusals that may pass cost two more requests and no error."""
    server.statuses, server.headers = [status, status], {"Retry-After": "0"}
    assert embedder.embed(["text"], "query").shape == (1, 64)


def test_a_busy_server_is_busy_with_its_own_time(server, embedder):
    """A 429 that asks for a long pause is handed on at once, with that time."""
    server.statuses, server.headers = [429], {"Retry-After": "30"}
    with pytest.raises(Busy) as busy:
        embedder.embed(["text"], "query")
    assert busy.value.retry_after_s == 30


@pytest.mark.parametrize(
    ("status", "error", "field"),
    [
        (401, InvalidSettings, "embedding_api_key"),
        (403, InvalidSettings, "embedding_api_key"),
        (404, InvalidSettings, "embedding_model"),
        (500, EmbedderUnavailable, None),
        (400, EmbedderUnavailable, None),
    ],
)
def test_refusals_become_our_errors_without_the_key(server, embedder, status, error, field):
    """Each status has its error, which names the setting to mend; the key is in no message and no repr."""
    server.statuses = [status]
    with pytest.raises(error) as refused:
        embedder.embed(["text"], "query")
    assert getattr(refused.value, "field", None) == field
    assert KEY not in str(refused.value)
    assert KEY not in repr(embedder)
    assert server.keys == [f"Bearer {KEY}"] * 2


def test_a_model_that_the_server_does_not_know(server):
    """A wrong name fails at construction and says which setting is wrong."""
    with pytest.raises(InvalidSettings, match="embedding_model: found 'other'"):
        RemoteEmbedder(server.url, "other")


def test_another_model_behind_the_name(server):
    """A server that answers with another model's name is refused."""
    server.model = "something else"
    with pytest.raises(InvalidSettings, match="something else"):
        RemoteEmbedder(server.url, "served")


def test_another_dimension_later(server, embedder):
    """A model that was exchanged behind our back is found by its dimension."""
    server.dimension = 32
    with pytest.raises(EmbedderUnavailable, match="32 dimensions now"):
        embedder.embed(["text"], "query")


@pytest.mark.parametrize(
    "mangle",
    [
        lambda answer: [],
        lambda answer: {"model": "served"},
        lambda answer: answer | {"data": answer["data"][1:]},
        lambda answer: answer | {"data": [entry | {"index": 7} for entry in answer["data"]]},
        lambda answer: answer | {"data": [entry | {"embedding": [0.0] * 64} for entry in answer["data"]]},
        lambda answer: answer | {"data": [entry | {"embedding": [float("nan")] * 64} for entry in answer["data"]]},
        lambda answer: answer | {"data": [entry | {"embedding": "no base64!"} for entry in answer["data"]]},
    ],
)
def test_an_answer_without_usable_embeddings(server, embedder, mangle):
    """Missing, misnumbered, zero, NaN or garbled embeddings are an error, never a wrong row."""
    server.mangle = mangle
    with pytest.raises(EmbedderUnavailable, match="answered with no embeddings"):
        embedder.embed(["text", "another"], "query")


def test_nobody_there():
    """A server that is not there is EmbedderUnavailable, naming the host."""
    with pytest.raises(EmbedderUnavailable, match=r"127\.0\.0\.1"):
        RemoteEmbedder("http://127.0.0.1:9/v1", "served")


@pytest.mark.parametrize("url", ["host:8001", "ftp://host/v1", "http://host:port"])
def test_an_address_that_is_none(url):
    """A URL without http is a setting to mend."""
    with pytest.raises(InvalidSettings, match="embedding_url"):
        RemoteEmbedder(url, "served")


def test_a_server_that_hangs(server):
    """A request that is not answered in time is EmbedderUnavailable, and is not sent again."""
    with closing(RemoteEmbedder(server.url, "served", timeout_s=0.1)) as embedder:
        server.mangle = lambda answer: time.sleep(0.3) or answer
        with pytest.raises(EmbedderUnavailable, match="ReadTimeout"):
            embedder.embed(["text"], "query")
    assert len(server.requests) == 2


def test_the_length_that_the_server_gives_is_used(server, embedder):
    """The max_model_len of vLLM bounds what is sent; without it the usual length of such models does."""
    assert embedder.max_tokens == MAX_TOKENS
    server.max_model_len = 12
    with closing(RemoteEmbedder(server.url, "served")) as short:
        prepared = short.prepare(["one two six ten " * 20, "one"], "passage")
    assert [text.text for text in prepared] == ["one two six ten " * 2 + "one two", "one"]
    assert [text.tokens for text in prepared] == [12, 3]


@given(text=st.text())
def test_estimated_spans_cover_the_text(text):
    """Estimated tokens come in order, lie within the text, and leave out nothing but white space."""
    spans = estimate_token_spans(text).tolist()
    assert spans == sorted(spans)
    covered = {position for start, end in spans for position in range(start, end)}
    assert covered == {position for position, character in enumerate(text) if not character.isspace()}
