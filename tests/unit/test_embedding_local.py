"""Local models against sentence-transformers' own encode."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from backends.errors import InvalidSettings
from retrieval.embedding.bert import PackedBert
from retrieval.embedding.folder import ModelFolder
from retrieval.embedding.hardware import SHORT_PASS_TOKENS, available_cores, threads_for
from retrieval.embedding.local import (
    DEFAULT_MODEL,
    LEAST_AGREEMENT,
    BertEmbedder,
    SentenceTransformersEmbedder,
    default_folder,
    open_local,
)

pytestmark = pytest.mark.model

ROOT = Path(__file__).parents[2]
TEXTS = [
    "leave",
    "",
    "?!",
    "How many days of paid leave do I get in my first year?",
    "Ünïcödé: naïve café, 日本語の文章, Привет мир, 😀 and a\u0301 combined.",
    "A sentence of ten words that is repeated many times. " * 40,
    "word " * 300,
]


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Threads of a forward pass wait for each other, which takes long on a machine that has other things to do."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def exact():
    return BertEmbedder(DEFAULT_MODEL, ModelFolder.read(default_folder()), "cpu", torch.float32)


@pytest.fixture(scope="module")
def fast():
    return BertEmbedder(DEFAULT_MODEL, ModelFolder.read(default_folder()), "cpu", torch.bfloat16)


@pytest.fixture(scope="module")
def reference():
    """The default model as sentence-transformers loads it."""
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(str(default_folder()), device="cpu", local_files_only=True)


def encode(model, texts, **options):
    return model.encode(texts, show_progress_bar=False, normalize_embeddings=True, **options)


def cosines(left, right):
    return (left.astype(np.float64) * right).sum(axis=1)


def test_float32_agrees_with_sentence_transformers(exact, reference):
    """Texts of all lengths in one pass have the embeddings that encode gives them."""
    assert cosines(exact.embed(TEXTS, "passage"), encode(reference, TEXTS)).min() > 0.999999


def test_half_precision_keeps_its_promise(fast, reference):
    """Bfloat16 products stay within the cosine that lets stamps match, also where they are emulated."""
    assert fast.stamp.numerics == "bfloat16"
    assert cosines(fast.embed(TEXTS, "passage"), encode(reference, TEXTS)).min() >= LEAST_AGREEMENT


def test_the_company_in_a_pass_does_not_matter(exact):
    """A text alone, without any padding, has the embedding that it has among others."""
    together = exact.embed(TEXTS, "passage")
    alone = np.concatenate([exact.embed([text], "passage") for text in TEXTS])
    np.testing.assert_allclose(together, alone, atol=1e-5)


@given(text=st.text(max_size=200))
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_text_agrees_with_sentence_transformers(exact, reference, text):
    """Whatever Unicode comes, tokens and embeddings are those of encode."""
    assert cosines(exact.embed([text], "query"), encode(reference, [text]))[0] > 0.99999


def test_what_is_beyond_the_length_is_not_read(exact):
    """The default model reads 256 tokens: two special ones and 254 of the text."""
    assert exact.max_tokens == 256
    longer, cut = exact.embed(["word " * 254 + "other", "word " * 254], "passage")
    np.testing.assert_allclose(longer, cut, atol=1e-6)
    assert [text.tokens for text in exact.prepare(["word", "word " * 254 + "other"], "query")] == [3, 256]


def test_token_spans_point_at_the_words(exact):
    """Spans count characters, not bytes, also beyond the model's length."""
    text = "Äpfel 😀 日本 " + "word " * 300
    spans = exact.token_spans(text)
    assert spans.dtype == np.int64
    assert [text[start:end] for start, end in spans[:6]] == ["Äp", "fe", "l", "😀", "日", "本"]
    assert [text[start:end] for start, end in spans[6:]] == ["word"] * 300


@given(text=st.text(max_size=300))
@example("\ud540")  # a Hangul syllable: three tokens of the one character
@settings(max_examples=200, deadline=None)
def test_token_spans_lie_in_the_text_in_order(exact, text):
    """For any text, starts and ends never go back, lie in the text, and leave out no letter or digit of ASCII."""
    spans = exact.token_spans(text)
    assert spans.shape == (len(spans), 2)
    assert (np.diff(spans, axis=0) >= 0).all()
    assert (spans[:, 0] < spans[:, 1]).all()
    assert spans.size == 0 or (spans[0, 0] >= 0 and spans[-1, 1] <= len(text))
    covered = {position for start, end in spans.tolist() for position in range(start, end)}
    assert all(position in covered for position, letter in enumerate(text) if letter.isascii() and letter.isalnum())


def test_no_texts_give_no_rows(exact):
    """An empty call has the right width."""
    assert exact.embed([], "query").shape == (0, 384)


def test_half_a_surrogate_pair_is_a_text_too(exact):
    """A string that UTF-8 cannot hold, as JSON can bring it, is embedded, and spans stay right."""
    text = "a \ud800 word"
    assert np.isfinite(exact.embed([text], "query")).all()
    assert text[slice(*exact.token_spans(text)[-1])] == "word"


def test_the_default_model_is_stamped(exact):
    """The stamp names model, weights, dimension and arithmetic."""
    opened = open_local(DEFAULT_MODEL, "cpu")
    assert opened.stamp.matches(exact.stamp)
    assert (exact.stamp.model, exact.stamp.dimension, exact.stamp.numerics) == (DEFAULT_MODEL, 384, "float32")
    assert len(exact.stamp.revision) == 16
    assert open_local(str(default_folder()), "cpu").stamp.revision == exact.stamp.revision


@pytest.mark.skipif(sys.platform != "linux", reason="counts threads in /proc")
def test_the_thread_that_opens_a_model_does_not_compute():
    """OpenMP's threads start with the first pass, not when loading: a second team would compete for the cores."""
    code = (
        "import os, time; from retrieval.embedding.local import open_local;"
        "embedder = open_local('all-MiniLM-L6-v2', 'cpu'); time.sleep(0.3);"
        "count = lambda: len(os.listdir('/proc/self/task')); before = count();"
        "embedder.embed(['a text'] * 64, 'query'); print(count() - before)"
    )
    environment = os.environ | {"OMP_NUM_THREADS": "2", "TOKENIZERS_PARALLELISM": "false"}
    started = subprocess.check_output([sys.executable, "-c", code], text=True, cwd=ROOT, env=environment)
    assert int(started) == min(2, available_cores()) - 1


def test_a_short_pass_runs_in_one_thread_and_gives_the_others_back(exact):
    """Two threads would wait for each other wherever anything else wants a core; the caller's setting stays."""
    before = torch.get_num_threads()
    with threads_for(SHORT_PASS_TOKENS, "cpu"):
        assert torch.get_num_threads() == 1
    with threads_for(SHORT_PASS_TOKENS + 1, "cpu"):
        assert torch.get_num_threads() == before
    exact.embed(["a text"], "query")
    assert torch.get_num_threads() == before


@pytest.fixture
def change_folder(tmp_path):
    """Copy the default model's folder by links, with some files replaced by other JSON."""

    def change(**replaced):
        for source in (file for file in default_folder().rglob("*") if file.is_file()):
            target = tmp_path / source.relative_to(default_folder())
            target.parent.mkdir(parents=True, exist_ok=True)
            target.symlink_to(source)
        for name, content in replaced.items():
            target = tmp_path / name.replace("__", "/")
            target = target.with_name(f"{target.name}.json")
            target.unlink(missing_ok=True)
            target.write_text(json.dumps(content))
        return tmp_path

    return change


def compare_with_encode(folder):
    """Open a folder both ways; return our embedder, our embeddings and encode's."""
    from sentence_transformers import SentenceTransformer

    embedder = open_local(str(folder), "cpu")
    theirs = SentenceTransformer(str(folder), device="cpu", local_files_only=True)
    texts = [text for text in TEXTS if text]
    return embedder, embedder.embed(texts, "passage"), encode(theirs, texts, prompt_name="document")


def test_first_token_pooling_and_prompts(change_folder):
    """A BERT that pools its first token and wants a prompt before passages agrees with encode."""
    folder = change_folder(
        **{"1_Pooling__config": {"word_embedding_dimension": 384, "pooling_mode_cls_token": True}},
        config_sentence_transformers={"prompts": {"query": "query: ", "document": "passage: "}},
    )
    embedder, ours, theirs = compare_with_encode(folder)
    assert isinstance(embedder, BertEmbedder)
    assert (embedder.stamp.query_prefix, embedder.stamp.passage_prefix) == ("query: ", "passage: ")
    assert cosines(ours, theirs).min() >= LEAST_AGREEMENT


def test_any_other_shape_goes_through_sentence_transformers(change_folder):
    """A model that pools the maximum gives exactly what encode gives, in an order of our own."""
    folder = change_folder(
        **{"1_Pooling__config": {"word_embedding_dimension": 384, "pooling_mode_max_tokens": True}},
        config_sentence_transformers={"prompts": {"document": "passage: "}},
    )
    embedder, ours, theirs = compare_with_encode(folder)
    assert isinstance(embedder, SentenceTransformersEmbedder)
    assert cosines(ours, theirs).min() > 0.999999
    assert embedder.max_tokens == 256
    assert len(embedder.token_spans("two words")) == 2


@pytest.mark.parametrize("weights", [None, b"half a file", {"other": torch.zeros(1)}])
def test_an_incomplete_folder_is_refused(change_folder, weights):
    """A folder with no weights, half of them or another model's is an error of the setting."""
    folder = change_folder()
    file = folder / "model.safetensors"
    file.unlink()
    if isinstance(weights, bytes):
        file.write_bytes(weights)
    elif weights is not None:
        save_file(weights, file)
    with pytest.raises(InvalidSettings, match=r"embedding_model: .* could not be loaded"):
        open_local(str(folder), "cpu")


def test_weights_that_suffer_in_half_precision_are_run_in_float32(change_folder):
    """Half precision is measured on the model at hand, and dropped where it changes the embeddings."""
    folder = change_folder()
    weights = load_file(folder / "model.safetensors")
    for name, weight in weights.items():
        if name.endswith(("query.weight", "key.weight")):
            weight *= 12  # attention so sharp that rounding decides it
    (folder / "model.safetensors").unlink()
    save_file(weights, folder / "model.safetensors")
    embedder = BertEmbedder("sharp", ModelFolder.read(folder), "cpu", torch.bfloat16)
    assert embedder.stamp.numerics == "float32"


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("DefaultCPUAllocator: can't allocate memory")]
)
def test_memory_that_runs_out_is_a_memory_error(exact, monkeypatch, error):
    """However torch says it, the batcher hears MemoryError, and splits."""

    def run_out(*_):
        raise error

    monkeypatch.setattr(PackedBert, "run", run_out)
    with pytest.raises(MemoryError):
        exact.embed(["text"], "query")


def test_other_errors_of_the_model_stay_what_they_are(exact, monkeypatch):
    """A RuntimeError that is not about memory is not taken for one."""

    def fail(*_):
        raise RuntimeError("shapes do not fit")

    monkeypatch.setattr(PackedBert, "run", fail)
    with pytest.raises(RuntimeError, match="shapes"):
        exact.embed(["text"], "query")
