"""How long prompts are, in a few classes: a model server's own metrics do not tell long prompts from short ones."""

from bisect import bisect_left

BOUNDS_TOKENS = (512, 1_024, 2_048, 4_096, 8_192, 16_384, 32_768)
INPUT_LENGTHS = ("0-512", "512-1k", "1k-2k", "2k-4k", "4k-8k", "8k-16k", "16k-32k", "32k+")
"""The classes, each with its upper bound and without its lower one."""


def input_length(prompt_tokens: int) -> str:
    """Return the class that a prompt of so many tokens belongs to."""
    return INPUT_LENGTHS[bisect_left(BOUNDS_TOKENS, prompt_tokens)]
