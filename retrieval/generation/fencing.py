"""How text that is not ours stands in a prompt: between marker lines, and without what a chat template would obey."""

import hashlib
import json
import re
import secrets
from collections.abc import Sequence
from itertools import count

from retrieval.documents import Hit
from retrieval.generation.base import Passage

_LABEL_CHARACTERS = 200
_MARKER_KEY = secrets.token_bytes(32)
_CONTROL_TOKEN = re.compile(
    r"<(?=[|\uff5c][^\s<>|\uff5c]{1,40}[|\uff5c]>"
    r"|/?(?:s|bos|eos|pad|unk|start_of_turn|end_of_turn|think|tool_call|tool_response)>)"
    r"|[<\[](?=<?/?(?:SYS>>|INST\]|SYSTEM_PROMPT\]|TOOL_CALLS\]|TOOL_RESULTS\]))"
)


def passages_text(passages: Sequence[Passage]) -> str:
    """Return the passages, each between two lines that begin with a marker, after a line that tells it."""
    marker = _marker(passages)
    fenced = "\n".join(_fenced(passage, marker) for passage in passages)
    return f"Passages, between lines that begin with {marker}:\n\n{fenced}"


def passage_text(passage: Passage) -> str:
    """Return one passage as it stands among others."""
    return _fenced(passage, _marker([passage]))


def harmless(text: str) -> str:
    """Break up what a chat template could take for the end of a message or the start of another role's."""
    return _CONTROL_TOKEN.sub(lambda found: f"{found.group()} ", text)


def _fenced(passage: Passage, marker: str) -> str:
    body = harmless(f"{_label(passage.hit)}\n{passage.text}")
    return f"{marker} [{passage.number}]\n{body}\n{marker} end of [{passage.number}]\n"


def _label(hit: Hit) -> str:
    """Title and id on one line, whatever they hold."""
    names = {"title": hit.title, "id": hit.id}
    return json.dumps({key: name[:_LABEL_CHARACTERS] for key, name in names.items()}, ensure_ascii=False)


def _marker(passages: Sequence[Passage]) -> str:
    """Return a marker that stands in no passage, made from a key that only this process has.

    Nearly always the first one that the key gives: a model server that caches prefixes can reuse its work. A
    document that holds it, because an answer once told it, gets the next.
    """
    held = "\n".join(f"{_label(passage.hit)}\n{passage.text}" for passage in passages)
    for attempt in count():
        digest = hashlib.blake2b(attempt.to_bytes(8), key=_MARKER_KEY, digest_size=6)
        marker = f"#{digest.hexdigest()}"
        if marker not in held:
            break
    return marker
