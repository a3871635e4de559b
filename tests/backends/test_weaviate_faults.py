"""The Weaviate adapter against a server that misbehaves: each fault and its documented outcome."""

import threading
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest
from weaviate import exceptions

from backends.errors import IndexUnavailable
from backends.weaviate import WeaviateIndex
from backends.weaviate.faults import FAULTS, mapped
from tests.backends.weaviate_subject import IDENTITY, SPEC, TIMEOUT_S, batch, change, held, opened, proposed
from tests.fakes.weaviate_server import FakeWeaviate, weaviate_server


@pytest.fixture
def server() -> Iterator[FakeWeaviate]:
    with weaviate_server() as running:
        yield running


@pytest.fixture
def index(server: FakeWeaviate) -> Iterator[WeaviateIndex]:
    """An index of the chunks 1 to 20, at number 1."""
    with opened(server) as made:
        made.build([batch(range(1, 21))], 1)
        yield made


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize("only", ["Search", "GET", "POST", "DELETE", "BatchObjects", "BatchDelete", "Aggregate"])
def test_what_passes_is_tried_again(server: FakeWeaviate, index: WeaviateIndex, only: str, status: int) -> None:
    """Two refusals in a row, of any call, in REST or gRPC, are not noticed."""

    def everything() -> None:
        index.build([batch(range(1, 21))], 1)
        index.apply([change(2, batch([30]), deletes=[1])])
        index.stats()

    server.misbehave(fail_next=2, status=status, only=only)
    everything()
    assert server.left("fail_next") == 0
    assert proposed(index, 30) == [30]
    assert held(index) == [*range(2, 21), 30]


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_search_gives_up_soon(server: FakeWeaviate, index: WeaviateIndex, status: int) -> None:
    """What goes on failing is IndexUnavailable well before the timeout; a 500 is not even tried again."""
    server.misbehave(fail_share=1.0, status=status, only="Search")
    began = time.monotonic()
    with pytest.raises(IndexUnavailable):
        proposed(index, 1)
    assert time.monotonic() - began < (0.2 if status == 500 else TIMEOUT_S)


def test_a_share_of_failures_gives_right_answers_or_none(server: FakeWeaviate, index: WeaviateIndex) -> None:
    """With half of all calls failing, each search is right or IndexUnavailable, and some are right."""
    server.misbehave(fail_share=0.5)
    answers = []
    for _ in range(12):
        try:
            answers.append(proposed(index, 3))
        except IndexUnavailable:
            continue
    assert answers
    assert all(answer == [3] for answer in answers)


def test_a_server_that_hangs_costs_the_timeout(server: FakeWeaviate) -> None:
    """A search is over after its timeout, tries and all, however long the server takes."""
    with opened(server, timeout_s=0.5) as index:
        index.build([batch([1])], 1)
        server.misbehave(sleep_s=20.0)
        began = time.monotonic()
        with pytest.raises(IndexUnavailable, match="RAGSTONE_WEAVIATE_URL"):
            proposed(index, 1)
        assert time.monotonic() - began < 1.0


def test_threads_do_not_queue_up_behind_one_that_connects(server: FakeWeaviate) -> None:
    """Where connecting hangs, six first searches at once take no longer than one."""
    server.misbehave(sleep_s=20.0)
    faults: list[IndexUnavailable] = []
    with opened(server, timeout_s=0.5) as index:

        def search() -> None:
            with pytest.raises(IndexUnavailable) as raised:
                proposed(index, 1)
            faults.append(raised.value)

        threads = [threading.Thread(target=search) for _ in range(6)]
        began = time.monotonic()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert time.monotonic() - began < 1.5
    assert len(faults) == 6


def test_a_broken_connection_is_made_again(server: FakeWeaviate, index: WeaviateIndex) -> None:
    """A connection that breaks off in the middle of a call costs another try."""
    server.misbehave(drop_next=1)
    assert index.stats().count == 20
    server.misbehave(drop_next=1)
    assert proposed(index, 1) == [1]
    server.misbehave(drop_next=3)
    with pytest.raises(IndexUnavailable):
        proposed(index, 1)


def test_a_lost_batch_is_sent_again(server: FakeWeaviate, index: WeaviateIndex) -> None:
    """Writes that are acknowledged and gone are noticed, in a build and in a change."""
    server.misbehave(lose_next=2)
    index.build([batch(range(1, 31))], 1)
    assert held(index) == [*range(1, 31)]
    server.misbehave(lose_next=1)
    index.apply([change(2, batch([40, 41]))])
    assert proposed(index, 41) == [41]


def test_a_store_that_goes_on_losing_is_unavailable(server: FakeWeaviate, index: WeaviateIndex) -> None:
    """What cannot be stored is never said to be applied."""
    server.misbehave(lose_next=99)
    with pytest.raises(IndexUnavailable, match="lost without an error"):
        index.apply([change(2, batch([40]))])
    assert index.stats().applied == 1
    with pytest.raises(IndexUnavailable, match="lost without an error"):
        index.build([batch([1])], 3)
    server.misbehave()
    assert not index.stats().ready


def test_a_lost_marker_is_noticed(server: FakeWeaviate, index: WeaviateIndex) -> None:
    """Also the marker itself is looked for after it is written."""
    server.misbehave(lose_next=99)
    with pytest.raises(IndexUnavailable, match="lost without an error"):
        index.build([], 3)
    assert not index.stats().ready


def test_objects_that_are_refused_are_sent_again(server: FakeWeaviate, index: WeaviateIndex) -> None:
    """Errors that single objects come back with are read, and those objects alone written anew."""
    server.misbehave(refuse_next=7)
    index.build([batch(range(1, 31))], 1)
    assert held(index) == [*range(1, 31)]


def test_an_object_that_weaviate_never_takes_is_named(index: WeaviateIndex) -> None:
    """A wrong dimension is no loss without a word: Weaviate's own reason comes through."""
    wrong = batch([50], replace(SPEC, dimension=9))
    with pytest.raises(IndexUnavailable, match="vector lengths don't match"):
        index.apply([change(2, wrong)])
    assert index.stats().applied == 1


def test_what_is_never_indexed_is_not_waited_for_for_ever(server: FakeWeaviate) -> None:
    """A queue that does not empty ends in IndexUnavailable, and the marker stays where it was."""
    with opened(server, timeout_s=0.1) as index:
        index.build([batch([1])], 1)
        server.misbehave(visible_after_s=60.0)
        with pytest.raises(IndexUnavailable, match="has not indexed 1 vectors"):
            index.apply([change(2, batch([2]))])
        assert index.stats().applied == 1


def test_lost_data_asks_for_a_rebuild(server: FakeWeaviate, index: WeaviateIndex) -> None:
    """A store that came back empty is not ready, takes no changes, and grows no class by itself."""
    server.forget()
    assert not index.stats().ready
    with pytest.raises(IndexUnavailable, match="rebuild it from the corpus"):
        proposed(index, 1)
    with pytest.raises(IndexUnavailable, match="rebuild it from the corpus"):
        index.apply([change(2, batch([2]))])
    assert server.store.classes == {}


def test_a_restart_of_the_server_is_lived_through(server: FakeWeaviate, index: WeaviateIndex) -> None:
    """While it is away every call is IndexUnavailable at once; when it is back the same object goes on."""
    server.stop()
    for call in (lambda: proposed(index, 1), index.stats, index.ping, index.drop):
        began = time.monotonic()
        with pytest.raises(IndexUnavailable, match="RAGSTONE_WEAVIATE_URL"):
            call()
        assert time.monotonic() - began < TIMEOUT_S
    server.start()
    assert proposed(index, 1) == [1]
    index.ping()
    assert index.apply([change(2, batch([40]))]) == 2


def test_a_server_that_comes_late_is_found(server: FakeWeaviate) -> None:
    """A connection that failed is tried again at the next call."""
    server.stop()
    with opened(server) as index:
        with pytest.raises(IndexUnavailable):
            index.stats()
        server.start()
        assert not index.stats().ready


def test_closing_while_others_search_breaks_nothing(index: WeaviateIndex) -> None:
    """A search that meets a closing connection gives its answer or IndexUnavailable, nothing else."""
    faults: list[Exception] = []

    def search() -> None:
        for _ in range(25):
            try:
                proposed(index, 1)
            except IndexUnavailable:
                continue
            except Exception as fault:
                faults.append(fault)

    threads = [threading.Thread(target=search) for _ in range(4)]
    for thread in threads:
        thread.start()
    for _ in range(8):
        index.close()
        time.sleep(0.02)
    for thread in threads:
        thread.join()
    assert not faults


@pytest.mark.parametrize("key", [None, "wrong"])
def test_a_wrong_key_names_its_setting(key: str | None) -> None:
    """Where Weaviate refuses the key, the message says which setting to mend, and not what the key is."""
    with weaviate_server(api_key="right") as server, opened(server, api_key=key) as index:
        with pytest.raises(IndexUnavailable, match="RAGSTONE_WEAVIATE_API_KEY") as raised:
            index.stats()
        assert "wrong" not in str(raised.value)


def test_a_right_key_opens_both_doors() -> None:
    """The key goes with REST and with gRPC."""
    with weaviate_server(api_key="right") as server, opened(server, api_key="right") as index:
        index.build([batch([1])], 1)
        assert proposed(index, 1) == [1]


@pytest.mark.parametrize("url", ["weaviate:8080", "ftp://127.0.0.1:8080", "http://127.0.0.1:50051", "http://"])
def test_an_address_that_cannot_be_one_names_its_setting(url: str) -> None:
    """A scheme, a host or a port that does not fit is said before anything is reached."""
    index = WeaviateIndex(SPEC, IDENTITY, url=url, grpc_port=50051)
    with pytest.raises(IndexUnavailable, match="RAGSTONE_WEAVIATE_URL"):
        index.ping()


def test_a_wrong_grpc_port_is_found_by_a_ping(server: FakeWeaviate) -> None:
    """REST alone does not make Weaviate reachable."""
    with weaviate_server() as gone:
        pass
    index = WeaviateIndex(SPEC, IDENTITY, url=server.url, grpc_port=gone.grpc_port, timeout_s=TIMEOUT_S)
    with pytest.raises(IndexUnavailable, match="RAGSTONE_WEAVIATE_GRPC_PORT"):
        index.ping()
    index.close()


def _public_errors() -> list[type[Exception]]:
    found = {
        made
        for name, made in vars(exceptions).items()
        if not name.startswith("_") and isinstance(made, type) and issubclass(made, Exception)
    }
    return sorted((made for made in found if made.__module__ == exceptions.__name__), key=lambda made: made.__name__)


def test_the_table_knows_every_error_of_the_client() -> None:
    """A class that a new version of the client brings has to be thought about."""
    assert len(_public_errors()) > 30
    assert [made.__name__ for made in _public_errors() if made not in FAULTS] == []


@pytest.mark.parametrize("made", FAULTS, ids=lambda made: made.__name__)
def test_no_error_of_the_clients_comes_through(made: type[Exception]) -> None:
    """Each is raised on as IndexUnavailable, with the address in its message."""
    fault = made.__new__(made)
    fault.__dict__["_status_code"] = 418  # what their constructors take from a response
    with pytest.raises(IndexUnavailable, match="Weaviate at http://here"), mapped("http://here"):
        raise fault
