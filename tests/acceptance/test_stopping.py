"""`ragstone serve` is asked to stop while answers are being written."""

import json
import signal
import threading
from pathlib import Path

import httpx

from tests.acceptance.command import Ragstone
from tests.fakes import model_server as fake

PIECES = [fake.event(fake.delta(word)) for word in ("thirty ", "days ")]


def test_a_stream_that_is_still_written_ends_with_a_problem(tmp_path: Path) -> None:
    """Its reader learns that it is not whole; the server stops in time, with status 0 and no traceback."""
    ended: list[str] = []
    with fake.model_server(fake.Reply(parts=PIECES, stalls=2)) as model:
        command = Ragstone(tmp_path / "data", {"RAGSTONE_GENERATOR_URL": model.url, "RAGSTONE_REFUSAL_SCORE": "-1"})
        with command.serving() as server:
            collection = f"{server.url}/v1/collections"
            httpx.post(collection, json={"name": "handbook"}).raise_for_status()
            documents = {"documents": [{"id": "leave", "text": "Everyone has thirty days of leave a year."}]}
            httpx.post(f"{collection}/handbook/documents", json=documents).raise_for_status()
            begun = threading.Event()

            def read() -> None:
                body = {"query": "how many days?", "stream": True}
                with httpx.stream("POST", f"{collection}/handbook/generate", json=body, timeout=30) as response:
                    for line in response.iter_lines():
                        ended.append(line)
                        if line == "event: text":
                            begun.set()

            reader = threading.Thread(target=read)
            reader.start()
            assert begun.wait(10)
            status = server.stop(signal.SIGTERM)
            reader.join(20)
    name, data = [line for line in ended if line][-2:]
    assert name == "event: problem"
    assert json.loads(data.removeprefix("data: "))["code"] == "generator_unavailable"
    assert status == 0
