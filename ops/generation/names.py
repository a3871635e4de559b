"""What model servers call their figures, and what we call them. Metrics of others have no stable names."""

from typing import NamedTuple


class Figure(NamedTuple):
    """One figure of ours. `names` are those of its samples, a server's newest first; the first that is there counts.

    A server that runs several engines (data-parallel replicas, say) has a sample of each: they are added up, and of
    a share the greatest counts. Counters only ever grow, until the server is started anew.
    """

    kind: str
    names: tuple[str, ...]


GAUGE, SHARE, COUNTER = "gauge", "share", "counter"

FIGURES = {
    "running": Figure(GAUGE, ("vllm:num_requests_running", "trtllm_num_requests_running", "ovms_current_graphs")),
    "waiting": Figure(GAUGE, ("vllm:num_requests_waiting", "trtllm_num_requests_waiting")),
    "kv_cache_usage": Figure(
        SHARE, ("vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc", "trtllm_kv_cache_utilization")
    ),
    "preemptions": Figure(COUNTER, ("vllm:num_preemptions_total",)),
    "prompt_tokens": Figure(COUNTER, ("vllm:prompt_tokens_total", "trtllm_prompt_tokens_total")),
    "generation_tokens": Figure(COUNTER, ("vllm:generation_tokens_total", "trtllm_generation_tokens_total")),
    # In tokens; TensorRT-LLM counts blocks of them, and tells hits and misses.
    "prefix_queries": Figure(COUNTER, ("vllm:prefix_cache_queries_total", "vllm:gpu_prefix_cache_queries_total")),
    "prefix_hits": Figure(
        COUNTER,
        ("vllm:prefix_cache_hits_total", "vllm:gpu_prefix_cache_hits_total", "trtllm_kv_cache_reused_blocks_total"),
    ),
    "prefix_misses": Figure(COUNTER, ("trtllm_kv_cache_missed_blocks_total",)),
    # Only with --kv-cache-metrics, and of the blocks that it samples.
    "kv_evictions": Figure(COUNTER, ("vllm:kv_block_idle_before_evict_seconds_count",)),
    "rejections": Figure(COUNTER, ("vllm:admission_rejections_total", "ovms_requests_rejected")),
}
FINISHED = ("vllm:request_success_total", "trtllm_request_success_total", "ovms_requests_success")
"""Requests that ended, by the label below where the server has it."""
FINISHED_REASON = "finished_reason"
REASONS = frozenset({"stop", "length", "abort", "error", "repetition", "timeout"})
"""Those that vLLM and TensorRT-LLM give; another is counted as "other"."""

ENGINES = {"vllm:": "vllm", "trtllm_": "tensorrt_llm", "ovms_": "openvino"}
"""What the names of a server's figures begin with, and what that says it is."""
