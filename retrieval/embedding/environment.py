"""What native libraries read from the environment when they are first imported. Whatever is set already stays."""

import os

SPINS = 10_000
"""How long a thread of a forward pass spins for its next piece of work, in turns of a loop: a fraction of a
millisecond, enough for the gaps within a pass. OpenMP's own choice is milliseconds, in which the caller waits for a
core to take its embedding; where PostgreSQL wanted the cores too, passes were seen to take many times as long."""


def prepare_environment() -> None:
    """To be called before torch, tokenizers or sentence_transformers are imported."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # models are local
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # every caller tokenizes in its own thread already
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", str(SPINS))
