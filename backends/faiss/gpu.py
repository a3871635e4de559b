"""FAISS on a GPU: what the wheels faiss-gpu and faiss-gpu-cuvs add. One card is used, the first.

https://github.com/facebookresearch/faiss/wiki/Faiss-on-the-GPU: an index on a GPU, and the memory it works in,
serves one thread at a time; it finds at most 2,048 hits and knows no selector.
"""

import functools
import logging
import os
import subprocess
import threading
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backends.errors import InvalidSettings
from backends.faiss.kinds import Kind
from backends.faiss.library import faiss
from backends.types import Embeddings, Ids

MAX_HITS = 2_048
UNKNOWN_FREE_BYTES = 8 << 30
ASK_TIMEOUT_S = 10.0

log = logging.getLogger(__name__)
_cards: dict[int, "Card"] = {}
_opening = threading.Lock()


def card_for(device: str) -> "Card | None":
    """Return this process's card, or None where FAISS is to run on the CPU; raises InvalidSettings without a GPU."""
    if device not in ("auto", "cpu", "gpu"):
        raise InvalidSettings("faiss_device", f"found {device!r}; needed auto, cpu or gpu")
    there = device != "cpu" and faiss.get_num_gpus() > 0
    if device == "gpu" and not there:
        raise InvalidSettings("faiss_device", "'gpu', but FAISS sees none; install a GPU wheel, or take 'auto'")
    with _opening:
        if there and 0 not in _cards:
            _cards[0] = Card()
        _say_once("FAISS searches on the GPU" if there else "no GPU: FAISS searches on the CPU")
        return _cards[0] if there else None


def free_bytes() -> int:
    """What is free on the card now, as nvidia-smi says; UNKNOWN_FREE_BYTES where it cannot be asked."""
    first = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
    command = ["nvidia-smi", f"--id={first}", "--query-gpu=memory.free", "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(command, capture_output=True, timeout=ASK_TIMEOUT_S, check=True, text=True)  # noqa: S603
        return int(answer.stdout.split()[0]) << 20
    except (OSError, subprocess.SubprocessError, ValueError, IndexError) as error:
        log.warning("nvidia-smi does not say what is free on the GPU (%s); 8 GiB are taken to be", error)
        return UNKNOWN_FREE_BYTES


class Card:
    """One GPU. Every use of it takes its lock, since all its indexes share its working memory."""

    def __init__(self) -> None:
        self._resources = faiss.StandardGpuResources()
        self._lock = threading.Lock()
        self.has_cagra = hasattr(faiss, "GpuIndexCagra")

    def searches(self, kind: Kind) -> bool:
        """Whether an index of this kind can be searched on the card: FAISS has no HNSW there."""
        return kind != "hnsw" and (kind != "cagra" or self.has_cagra)

    def cloned(self, index: Any) -> Any:
        """Copy an index of a kind with inverted lists, or CAGRA's CPU form, to the card."""
        options = faiss.GpuClonerOptions()
        options.useFloat16 = True
        with self._lock:
            return faiss.index_cpu_to_gpu(self._resources, 0, index, options)

    def copied_back(self, index: Any) -> Any:
        with self._lock:
            return faiss.index_gpu_to_cpu(index)

    def made_cagra(self, embeddings: Embeddings, metric: int) -> Any:
        """Build CAGRA on the card, and return its CPU form, which a CPU can search too."""
        dimension = embeddings.shape[1]
        built = faiss.IndexHNSWCagra(dimension, 32, metric)
        with self._lock:
            index = faiss.GpuIndexCagra(self._resources, dimension, metric)
            index.train(embeddings)
            index.copyTo(built)
        return built

    def placed(self, kind: Kind, index: Any, slices: Any) -> "OnCard":
        """Put an index on the card to be searched there; a flat one is filled from its rows, in float16."""
        if kind != "flat":
            return OnCard(kind, self.cloned(index), self._lock)
        config = faiss.GpuIndexFlatConfig()
        config.useFloat16 = True
        with self._lock:
            flat = faiss.GpuIndexFlat(self._resources, index.d, index.metric_type, config)
            for part in slices:
                flat.add(part)
        return OnCard(kind, flat, self._lock)


class OnCard:
    """An index on a card. What it finds may have to be thinned out: it is asked for more than is wanted."""

    def __init__(self, kind: Kind, index: Any, lock: threading.Lock) -> None:
        self._kind = kind
        self._index = index
        self._lock = lock

    def search(self, queries: Embeddings, hits: int, effort: int) -> tuple[NDArray[np.float32], Ids]:
        """Find `hits` rows, at most MAX_HITS, as FAISS's distances and row numbers [q, hits]."""
        params = None
        if self._kind in ("ivf_sq8", "ivf_pq"):
            params = faiss.SearchParametersIVF(nprobe=min(effort, MAX_HITS))
        elif self._kind == "cagra":
            params = faiss.SearchParametersCagra(itopk_size=max(effort, hits))
        with self._lock:
            distances, rows = self._index.search(queries, hits, params=params)
        return distances, rows


@functools.cache
def _say_once(text: str) -> None:
    log.info(text)
