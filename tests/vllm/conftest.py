"""Where the real vLLM is. Without one these tests fail: who runs them wants to know."""

import os

import httpx
import pytest


@pytest.fixture(scope="session")
def vllm_url() -> str:
    """The real server's OpenAI address, from RAGSTONE_VLLM_URL, for example http://127.0.0.1:8001/v1."""
    url = os.environ.get("RAGSTONE_VLLM_URL", "")
    needed = "run: make test-vllm VLLM_URL=http://127.0.0.1:8001/v1, with a vLLM that serves there"
    if not url:
        pytest.fail(f"RAGSTONE_VLLM_URL is not set; {needed}", pytrace=False)
    try:
        httpx.get(f"{url}/models", timeout=5).raise_for_status()
    except httpx.HTTPError as error:
        pytest.fail(f"no model server answers at {url}: {error}; {needed}", pytrace=False)
    return url
