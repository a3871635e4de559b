"""A collection's own prompt and a conversation, from the library, the command and HTTP to what the model is asked."""

import json
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

import retrieval
from backends.corpus.collections import find_collection
from backends.errors import CollectionNotFound, InvalidInput
from ops.cli.app import run
from retrieval.config import load
from retrieval.generation.base import Message
from retrieval.generation.templates import FENCE_RULE, PromptTemplate
from retrieval.service import create_app
from tests.fakes.model_server import ModelServer, Reply, answer, model_server
from tests.service.serving import database_of_its_own, served

TEMPLATE = PromptTemplate(system="Be brief.", user="{passages}\nAsked by a colleague: {question}")
LEAVE = retrieval.Document(id="leave", title="Leave", text="Everyone has thirty days of leave a year.")
QUESTION = "how many days of leave does everyone have"


@pytest.fixture(scope="module")
def model() -> Iterator[ModelServer]:
    with model_server(lambda _: Reply(parts=answer("Thirty days. ", "[1]", " Ask [7]."))) as server:
        yield server


@pytest.fixture(scope="module")
def url(postgres_url: str) -> Iterator[str]:
    with database_of_its_own(postgres_url, "prompts") as url:
        yield url


@pytest.fixture(scope="module")
def rag(url: str, model: ModelServer) -> Iterator[retrieval.Ragstone]:
    settings = load(embedding_model="hashing", generator_url=model.url)
    with retrieval.open(url, settings=settings) as rag:
        yield rag


@pytest.fixture
def handbook(rag: retrieval.Ragstone) -> retrieval.Collection:
    made = rag.create_collection(f"c{uuid.uuid4().hex}")
    made.upsert([LEAVE])
    return made


def asked(model: ModelServer) -> list[tuple[str, str]]:
    """What the model was asked last."""
    return [(message["role"], message["content"]) for message in model.bodies[-1]["messages"]]


def test_a_collection_is_asked_by_its_own_prompt(handbook: retrieval.Collection, model: ModelServer) -> None:
    """From the next answer on, with the rule about passages; None goes back to the default."""
    handbook.configure(prompt=TEMPLATE)
    assert handbook.info().prompt == TEMPLATE
    handbook.generate(QUESTION)
    (_, system), (_, user) = asked(model)
    assert system == f"Be brief.\n\n{FENCE_RULE}"
    assert LEAVE.text in user
    assert user.endswith(f"\nAsked by a colleague: {QUESTION}")
    handbook.configure(prompt=None)
    handbook.generate(QUESTION)
    assert asked(model)[-1][1].endswith(f"\nQuestion: {QUESTION}")


def test_what_is_not_configured_stays(handbook: retrieval.Collection, rag: retrieval.Ragstone) -> None:
    """None goes back to the service's settings, and what is not given is left alone."""
    handbook.configure(prompt=TEMPLATE, recall_target=0.9, placement_threshold=7)
    handbook.configure(recall_target=None)
    info = handbook.info()
    assert (info.prompt, info.recall_target, info.placement_threshold) == (TEMPLATE, None, 7)
    assert find_collection(rag.database, handbook.name).prompt == TEMPLATE.as_dict()


def test_a_collection_that_is_gone_cannot_be_configured(
    handbook: retrieval.Collection, rag: retrieval.Ragstone
) -> None:
    """It is not found, rather than changed in silence."""
    rag.delete_collection(handbook.name)
    with pytest.raises(CollectionNotFound):
        handbook.configure(prompt=TEMPLATE)


def test_a_conversation_reaches_the_model(handbook: retrieval.Collection, model: ModelServer) -> None:
    """Its turns stand between the system message and the question; a system message among them is refused."""
    history = [Message("user", "Is there leave?"), Message("assistant", "There is [3].")]
    answered = handbook.generate(QUESTION, history=history)
    assert [role for role, _ in asked(model)] == ["system", "user", "assistant", "user"]
    assert asked(model)[1:3] == [("user", "Is there leave?"), ("assistant", "There is.")]
    [citation] = answered.citations
    [span] = citation.answer_spans
    assert answered.text[span.start : span.end] == "Thirty days. [1]"
    with pytest.raises(InvalidInput) as caught:
        handbook.generate(QUESTION, history=[Message("system", "Obey.")])
    assert caught.value.field == "history[0].role"


def test_chat_completions_are_asked_with_their_conversation(
    handbook: retrieval.Collection, rag: retrieval.Ragstone, model: ModelServer
) -> None:
    """Over HTTP too: what user and assistant said before, without the client's system message."""
    said = [
        {"role": "system", "content": "You are a pirate."},
        {"role": "user", "content": "Is there leave?"},
        {"role": "assistant", "content": "There is."},
        {"role": "user", "content": QUESTION},
    ]
    with served(create_app(rag)) as base, httpx.Client(base_url=base, timeout=30) as client:
        found = client.post("/v1/chat/completions", json={"model": handbook.name, "messages": said}).json()
    assert "pirate" not in json.dumps(model.bodies[-1])
    assert asked(model)[1:3] == [("user", "Is there leave?"), ("assistant", "There is.")]
    message = found["choices"][0]["message"]
    [cited] = [annotation["url_citation"] for annotation in message["annotations"]]
    assert message["content"][cited["start_index"] : cited["end_index"]] == "Thirty days. [1]"
    assert cited["url"] == f"/v1/collections/{handbook.name}/documents/leave#char=0,{len(LEAVE.text)}"


def command(url: str, capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, Any]:
    """Run `ragstone collections ...`: its exit status, and what it printed."""
    status = run(["--data", url, "collections", *map(str, words)])
    printed = capsys.readouterr()
    return status, printed.out or printed.err


@pytest.mark.parametrize("name", ["prompt.json", "prompt.toml"])
def test_the_command_sets_a_prompt(
    handbook: retrieval.Collection,
    url: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    name: str,
) -> None:
    """From a file of either kind; `show` shows it, and --prompt-default takes it back."""
    monkeypatch.setenv("RAGSTONE_EMBEDDING_MODEL", "hashing")
    file = tmp_path / name
    texts = TEMPLATE.as_dict()
    toml = "".join(f"{key} = {json.dumps(text)}\n" for key, text in texts.items())
    file.write_text(toml if name.endswith("toml") else json.dumps(texts))
    status, printed = command(url, capsys, "configure", handbook.name, "--prompt", file, "--json")
    assert (status, json.loads(printed)["prompt"]) == (0, TEMPLATE.as_dict())
    status, printed = command(url, capsys, "show", handbook.name)
    assert status == 0
    assert "prompt system" in printed
    assert "Be brief." in printed
    status, printed = command(url, capsys, "configure", handbook.name, "--prompt-default")
    assert (status, "the default" in printed) == (0, True)


@pytest.mark.parametrize(
    ("words", "content", "told"),
    [
        ([], "", "needed one of the two"),
        (["--prompt", "FILE", "--prompt-default"], "{}", "needed one of the two"),
        (["--prompt", "FILE"], "{", "is not JSON"),
        (["--prompt", "FILE"], '{"system": "x", "user": "{question}"}', "prompt.user: found {passages} 0 times"),
        (["--prompt", "FILE"], '{"user": "{passages}{question}"}', "prompt.system: found none; it is needed"),
        (["--prompt", "FILE"], '{"system": "x"}', "prompt.user: found none; it is needed"),
        (["--prompt", "FILE"], '{"system": "x", "user": 7}', "prompt.user: found int; needed a text"),
        (["--prompt", "FILE"], '{"assistant": "x"}', "prompt.assistant"),
    ],
)
def test_the_command_refuses_what_it_cannot_set(
    url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], content: str, told: str
) -> None:
    """With exit status 2 and what to mend."""
    file = tmp_path / "prompt.json"
    file.write_text(content)
    given = [str(file) if word == "FILE" else word for word in words]
    status, printed = command(url, capsys, "configure", "handbook", *given)
    assert status == 2
    assert told in " ".join(printed.split())
