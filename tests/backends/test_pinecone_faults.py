"""The Pinecone adapter against a server that is late, loses things, refuses, hangs or goes away."""

import inspect
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from pinecone import errors
from pinecone.errors import exceptions

from backends.errors import IndexUnavailable
from backends.pinecone import PineconeIndex
from backends.pinecone.connection import TRIES
from backends.pinecone.failures import REMEDIES, NotThere, as_unavailable
from backends.types import Batch
from tests.backends.pinecone_subject import IDENTITY, batch, change, found, held, pinecone_index, query
from tests.fakes.pinecone_server import API_KEY, FakePinecone, Fault, pinecone_server

Disturbance = Callable[[dict[str, Any]], object]
REQUIRED = {"message", "status_code", "index_name", "name", "state"}

SDK_ERRORS: set[type[errors.PineconeError]] = {
    kind
    for module in (errors, exceptions)
    for _, kind in inspect.getmembers(module, inspect.isclass)
    if issubclass(kind, errors.PineconeError)
}


@pytest.fixture
def server() -> Iterator[FakePinecone]:
    """A Pinecone of its own for each test."""
    with pinecone_server() as started:
        yield started


@pytest.fixture
def index(server: FakePinecone) -> Iterator[PineconeIndex]:
    """An index of three chunks."""
    with pinecone_index(server) as opened:
        opened.build([batch([1, 2, 3])], 1)
        server.exchanges.clear()
        yield opened


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is not to be seen counts as lost at once."""
    monkeypatch.setattr("backends.pinecone.namespace.LOST_AFTER_S", 0.01)


def _forever(**given: Any) -> Fault:
    return Fault(times=1_000, **given)


@pytest.mark.parametrize("numbered", [True, False], ids=["numbered", "unnumbered"])
def test_apply_returns_when_its_writes_are_visible(server: FakePinecone, index: PineconeIndex, numbered: bool) -> None:
    """Writes and deletes that show late are waited for, with the numbers of the log as well as without."""
    server.data.lag_s, server.data.numbers_writes = 0.4, numbered
    started = time.monotonic()
    assert index.apply([change(2, batch([4]), deletes=[1])]) == 2
    assert time.monotonic() - started >= 0.8  # the chunks, then the marker
    assert found(index) == {2, 3, 4}
    assert index.apply([change(3, deletes=[2])]) == 3
    assert found(index) == {3, 4}
    assert index.stats().applied == 3


@pytest.mark.parametrize("numbered", [True, False], ids=["numbered", "unnumbered"])
def test_a_build_waits_until_what_was_there_is_gone(server: FakePinecone, numbered: bool) -> None:
    """A build over an earlier one, where deletes show late, ends with its own chunks alone."""
    server.data.lag_s, server.data.numbers_writes = 0.2, numbered
    with pinecone_index(server) as index:
        index.build([batch(range(1, 30))], 1)
        index.build([batch([40])], 2)
        assert found(index) == {40}


def test_a_drop_waits_until_it_shows(server: FakePinecone, index: PineconeIndex) -> None:
    """After a drop no marker is read any more, however late deletes show."""
    server.data.lag_s = 0.3
    index.drop()
    assert not index.stats().ready


@pytest.mark.parametrize("numbered", [True, False], ids=["numbered", "unnumbered"])
def test_writes_that_never_show_are_an_error(server: FakePinecone, numbered: bool) -> None:
    """The wait has an end, and the marker stays where it was."""
    with pinecone_index(server, visible_timeout_s=0.3) as index:
        index.build([batch([1])], 1)
        server.data.lag_s, server.data.numbers_writes = 60.0, numbered
        with pytest.raises(IndexUnavailable, match="does not show them"):
            index.apply([change(2, batch([2]))])
        assert (index.stats().applied, index.search(query(), 9).applied) == (1, 1)


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("path", ["/vectors/upsert", "/vectors/delete"])
def test_a_lost_request_is_sent_again(server: FakePinecone, index: PineconeIndex, path: str) -> None:
    """What was acknowledged and is not to be seen goes out a second time."""
    server.misbehave(Fault(path=path, lose=True))
    index.apply([change(2, batch(range(10, 1_500)), deletes=[1, 2])])
    assert held(index) == [3, *range(10, 1_500)]
    assert index.stats().applied == 2


@pytest.mark.usefixtures("impatient")
def test_a_build_sends_again_what_was_lost(server: FakePinecone, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first marker vanishes, then two of three requests, then the last marker: the index is whole in the end."""
    monkeypatch.setattr("backends.pinecone.index.HELD_BYTES", 1)

    def batches() -> Iterator[Batch]:
        server.misbehave(Fault(path="/vectors/upsert", lose=True, times=2))
        yield batch(range(1, 3_001))
        server.misbehave(Fault(path="/vectors/upsert", lose=True))

    with pinecone_index(server) as index:
        server.misbehave(Fault(path="/vectors/upsert", lose=True))
        index.build(batches(), 1)
        assert held(index) == [*range(1, 3_001)]
        assert index.stats().ready
    assert len(server.requests("/vectors/upsert")) == 2 + (3 + 2) + 2


@pytest.mark.usefixtures("impatient")
def test_a_pinecone_that_loses_everything_is_an_error(server: FakePinecone, index: PineconeIndex) -> None:
    """After three times the change counts as not applied."""
    server.misbehave(_forever(path="/vectors/upsert", lose=True))
    with pytest.raises(IndexUnavailable, match="lost writes"):
        index.apply([change(2, batch([9]))])
    assert index.stats().applied == 1


@pytest.fixture
def disturbed(server: FakePinecone, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Disturbance], None]]:
    """Build chunks 1 to 10, and do something to Pinecone's records before the build comes to its end."""
    monkeypatch.setattr("backends.pinecone.namespace.COUNT_SETTLES_S", 0.1)
    monkeypatch.setattr("backends.pinecone.index.HELD_BYTES", 1)

    def build(disturbance: Disturbance) -> None:
        def batches() -> Iterator[Batch]:
            yield batch(range(1, 11))
            (made,) = server.data.indexes.values()
            disturbance(made.namespaces[IDENTITY.name].records)

        index.build(batches(), 1)

    with pinecone_index(server) as index:
        yield build


def test_a_chunk_missing_after_a_build_is_an_error(
    server: FakePinecone, disturbed: Callable[[Disturbance], None]
) -> None:
    """One that vanishes from within a request is noticed by the count: the index is not ready, and says what to do."""
    with pytest.raises(IndexUnavailable, match=r"lost 1 of 10 chunks .* rebuild"):
        disturbed(lambda records: records.pop("5"))
    with pinecone_index(server) as index:
        assert not index.stats().ready


def test_a_chunk_too_many_after_a_build_is_deleted(
    server: FakePinecone, disturbed: Callable[[Disturbance], None]
) -> None:
    """What nobody sent is removed before the index counts as whole."""
    disturbed(lambda records: records.update({"77": records["6"]}))
    with pinecone_index(server) as index:
        assert held(index) == [*range(1, 11)]
        assert index.stats().ready


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_a_passing_failure_is_tried_again(server: FakePinecone, index: PineconeIndex, status: int) -> None:
    """Twice refused and then answered is answered."""
    server.misbehave(Fault(path="/query", status=status, times=2, retry_after_s=0))
    assert found(index) == {1, 2, 3}
    assert [exchange.status for exchange in server.requests("/query")] == [status, status, 200]


@pytest.mark.parametrize("status", [500, 503])
def test_there_are_three_tries_and_no_more(server: FakePinecone, index: PineconeIndex, status: int) -> None:
    """One layer tries again: neither the SDK nor anything else multiplies the tries."""
    server.misbehave(_forever(status=status))
    with pytest.raises(IndexUnavailable, match="try again later"):
        index.search(query(), 1)
    assert len(server.exchanges) == TRIES
    with pytest.raises(IndexUnavailable):
        index.ping()
    assert len(server.exchanges) == 2 * TRIES


@pytest.mark.parametrize("status", [400, 402, 403, 501])
def test_a_lasting_failure_is_not_tried_again(server: FakePinecone, index: PineconeIndex, status: int) -> None:
    """What will be refused again is asked once."""
    server.misbehave(_forever(path="/query", status=status))
    with pytest.raises(IndexUnavailable):
        index.search(query(), 1)
    assert len(server.requests("/query")) == 1


def test_a_pause_that_is_asked_for_is_kept(server: FakePinecone, index: PineconeIndex) -> None:
    """Retry-After of one second: the second try comes no sooner."""
    server.misbehave(Fault(path="/query", status=429, retry_after_s=1))
    started = time.monotonic()
    assert found(index) == {1, 2, 3}
    assert time.monotonic() - started >= 1.0


def test_a_pause_beyond_the_deadline_is_not_begun(server: FakePinecone, index: PineconeIndex) -> None:
    """Retry-After of a minute, where a search may take five seconds: the error comes at once."""
    server.misbehave(Fault(path="/query", status=429, retry_after_s=60))
    started = time.monotonic()
    with pytest.raises(IndexUnavailable, match="try again later"):
        index.search(query(), 1)
    assert time.monotonic() - started < 3.0


def test_some_failures_among_many_requests_do_no_harm(server: FakePinecone, index: PineconeIndex) -> None:
    """Every tenth request fails while chunks are built, changed and searched: all comes right."""
    server.misbehave(_forever(status=503, share=0.1))
    index.build([batch(range(1, 3_001))], 5)
    index.apply([change(6, batch(range(4_000, 4_500)), deletes=range(1, 100))])
    assert held(index) == [*range(100, 3_001), *range(4_000, 4_500)]
    assert any(exchange.status == 503 for exchange in server.exchanges)


def test_a_search_ends_within_its_time(server: FakePinecone) -> None:
    """A server that hangs costs one timeout, not three, and the message names the setting."""
    with pinecone_index(server, timeout_s=1.0) as index:
        index.build([batch([1])], 1)
        server.misbehave(_forever(path="/query", pause_s=5.0))
        started = time.monotonic()
        with pytest.raises(IndexUnavailable, match="RAGSTONE_BACKEND_TIMEOUT_S"):
            index.search(query(), 1)
        assert time.monotonic() - started < 2.0


def test_many_queries_end_within_their_time(server: FakePinecone) -> None:
    """The time is for the search as a whole: forty slow queries, eight at once, are given up together."""
    with pinecone_index(server, timeout_s=1.0) as index:
        index.build([batch([1])], 1)
        server.misbehave(_forever(path="/query", pause_s=0.6))
        started = time.monotonic()
        with pytest.raises(IndexUnavailable):
            index.search(np.repeat(query(), 40, axis=0), 1)
        assert time.monotonic() - started < 2.0


def test_a_dropped_connection_is_tried_again(server: FakePinecone, index: PineconeIndex) -> None:
    """A connection that closes without an answer is one failed try, for a search as for a write."""
    server.misbehave(Fault(path="/query", drop=True))
    assert found(index) == {1, 2, 3}
    server.misbehave(Fault(path="/vectors/upsert", drop=True))
    index.apply([change(2, batch([4]))])
    assert found(index) == {1, 2, 3, 4}


def test_an_answer_that_is_no_json_is_an_error(server: FakePinecone, index: PineconeIndex) -> None:
    """Something else than Pinecone behind the address comes out as IndexUnavailable."""
    server.misbehave(Fault(path="/query", body=b"<html>"))
    with pytest.raises(IndexUnavailable, match="RAGSTONE_PINECONE_HOST"):
        index.search(query(), 1)


def test_a_restart_is_survived(server: FakePinecone, index: PineconeIndex) -> None:
    """While Pinecone is away every call says so and names the setting; when it is back the same object goes on."""
    server.stop()
    for call in (index.ping, index.stats, lambda: index.search(query(), 1), lambda: held(index), index.drop):
        with pytest.raises(IndexUnavailable, match="RAGSTONE_PINECONE_HOST"):
            call()
    with pytest.raises(IndexUnavailable, match="RAGSTONE_PINECONE_HOST"):
        index.build([], 2)
    server.start()
    index.build([batch([1, 2])], 2)
    server.stop()
    server.start()
    assert found(index) == {1, 2}
    assert index.apply([change(3, batch([3]))]) == 3


def test_a_pinecone_that_forgot_everything_is_built_anew(server: FakePinecone, index: PineconeIndex) -> None:
    """Searches and changes say that the index is gone; stats say not ready; a build makes everything again."""
    server.forget_everything()
    for call in (lambda: index.search(query(), 1), lambda: index.apply([change(2, batch([4]))])):
        with pytest.raises(IndexUnavailable, match="rebuild"):
            call()
    assert (index.stats().ready, index.stats().applied) == (False, 0)
    index.build([batch([7])], 3)
    assert found(index) == {7}


def test_an_index_at_another_address_is_found_again(server: FakePinecone, index: PineconeIndex) -> None:
    """The Pinecone index was deleted and made anew: its old address knows nothing, the control plane a new one."""
    (name,) = server.data.indexes
    server.data.indexes[name].path = f"{name}-2"
    with pytest.raises(IndexUnavailable, match="rebuild"):
        index.search(query(), 1)
    assert found(index) == {1, 2, 3}


def test_an_index_of_another_shape_is_refused(server: FakePinecone, index: PineconeIndex) -> None:
    """Somebody made a Pinecone index of our name with another dimension: the message says what to do."""
    (made,) = server.data.indexes.values()
    made.dimension = 9
    with pinecone_index(server) as other, pytest.raises(IndexUnavailable, match="delete it, and rebuild"):
        other.search(query(), 1)


def test_a_wrong_key_names_its_setting(server: FakePinecone, index: PineconeIndex) -> None:
    """On both planes, and the key itself is not in the message."""
    server.api_key = "another"
    for call in (index.ping, lambda: index.search(query(), 1)):
        with pytest.raises(IndexUnavailable, match="RAGSTONE_PINECONE_API_KEY") as caught:
            call()
        assert API_KEY not in str(caught.value)


def test_only_the_given_hosts_are_reached(server: FakePinecone, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the environment says of proxies, hosts and headers, every connection goes to the server."""
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "PINECONE_CONTROLLER_HOST"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.setenv("PINECONE_ADDITIONAL_HEADERS", '{"X-Stray": "1"}')
    monkeypatch.setenv("PINECONE_API_KEY", "of somebody else")
    reached, connect = set(), socket.socket.connect

    def recorded(self: socket.socket, address: Any) -> None:
        reached.add(address)
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", recorded)
    with pinecone_index(server) as index:
        index.build([batch([1])], 1)
        index.apply([change(2, batch([2]))])
        index.ping()
        assert found(index) == {1, 2}
        index.drop()
    assert {f"http://{host}:{port}" for host, port in reached} == {server.url}
    assert not any("x-stray" in exchange.headers for exchange in server.exchanges)


def test_every_error_of_the_sdk_has_a_remedy() -> None:
    """The SDK's exception classes, as this version has them, are those in the table."""
    assert set(REMEDIES) == SDK_ERRORS


@pytest.mark.parametrize("kind", sorted(SDK_ERRORS, key=lambda kind: kind.__name__), ids=lambda kind: kind.__name__)
def test_every_error_of_the_sdk_becomes_ours(kind: type[errors.PineconeError]) -> None:
    """Each comes out as IndexUnavailable with its remedy, and keeps its cause; only 404 is NotThere."""
    asked = [name for name in inspect.signature(kind).parameters if name in REQUIRED]
    error = kind(*[418 if name == "status_code" else "oops" for name in asked])
    with pytest.raises(IndexUnavailable, match="could not look at there: ") as caught, as_unavailable("look", "there"):
        raise error
    assert caught.value.__cause__ is error
    assert REMEDIES[kind] in str(caught.value)
    assert isinstance(caught.value, NotThere) == (kind is errors.NotFoundError)
