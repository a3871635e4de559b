"""What needs a real vLLM: `make test-vllm VLLM_URL=http://host:8000/v1`."""
