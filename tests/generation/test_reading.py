"""One reading of a model server: its figures under our names, whichever server and version it is."""

from math import inf

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ops.generation.names import FIGURES, FINISHED
from ops.generation.reading import NoMetrics, read
from tests.generation.engine_server import PAGE, page

V1_EARLY = """
vllm:num_requests_running{model_name="a"} 3
vllm:num_requests_waiting{model_name="a"} 2
vllm:gpu_cache_usage_perc{model_name="a"} 0.25
vllm:gpu_prefix_cache_queries_total{model_name="a"} 100
vllm:gpu_prefix_cache_hits_total{model_name="a"} 40
vllm:num_preemptions_total{model_name="a"} 1
vllm:prompt_tokens_total{model_name="a"} 100
vllm:generation_tokens_total{model_name="a"} 50
vllm:request_success_total{finished_reason="stop",model_name="a"} 7
"""
TENSORRT_LLM = """
# TYPE trtllm_kv_cache_utilization gauge
trtllm_kv_cache_utilization{engine_type="trtllm",model_name="a"} 0.5
trtllm_kv_cache_reused_blocks_total{model_name="a"} 30
trtllm_kv_cache_missed_blocks_total{model_name="a"} 10
trtllm_num_requests_running{model_name="a"} 4
trtllm_num_requests_waiting{model_name="a"} 0
trtllm_prompt_tokens_total{model_name="a"} 11
trtllm_generation_tokens_total{model_name="a"} 22
trtllm_request_success_total{finished_reason="length",model_name="a"} 2
"""
OPENVINO = """
# HELP ovms_current_graphs Number of MediaPipe graphs in process.
# TYPE ovms_current_graphs gauge
ovms_current_graphs{name="a"} 2
ovms_requests_rejected{api="V3",interface="REST",method="Unary",name="a"} 1
ovms_requests_success{api="V3",interface="REST",method="Unary",name="a"} 5
ovms_requests_success{api="V3",interface="REST",method="Stream",name="a"} 6
"""


def test_vllm_has_what_we_look_for() -> None:
    """Every figure of vLLM's own is on the page that a real vLLM 0.32 gave, under the first of its names."""
    reading = read(PAGE, at_s=1.0)
    absent = {"prefix_misses", "kv_evictions"}  # another server's, and one that is off unless asked for
    assert reading.values.keys() == FIGURES.keys() - absent
    assert reading.engine == "vllm"
    for ours in reading.values:
        assert f"{FIGURES[ours].names[0]}{{" in PAGE
    assert reading.values["generation_tokens"] == 60
    assert reading.values["prompt_tokens"] == reading.values["prefix_queries"] == 183
    assert reading.finished == {"stop": 0, "length": 3, "abort": 0, "error": 0, "repetition": 0}
    assert f"{FINISHED[0]}{{" in PAGE


def test_evictions_where_they_are_counted() -> None:
    """With --kv-cache-metrics, vLLM has a histogram of blocks that were given up."""
    text = f'{PAGE}vllm:kv_block_idle_before_evict_seconds_count{{engine="0",model_name="tiny"}} 12\n'
    assert read(text, 0).values["kv_evictions"] == 12


@pytest.mark.parametrize(
    ("text", "engine", "values", "finished"),
    [
        (V1_EARLY, "vllm", {"running": 3, "waiting": 2, "kv_cache_usage": 0.25, "prefix_queries": 100,
                            "prefix_hits": 40, "preemptions": 1, "prompt_tokens": 100, "generation_tokens": 50},
         {"stop": 7}),
        (TENSORRT_LLM, "tensorrt_llm", {"running": 4, "waiting": 0, "kv_cache_usage": 0.5, "prefix_hits": 30,
                                        "prefix_misses": 10, "prompt_tokens": 11, "generation_tokens": 22},
         {"length": 2}),
        (OPENVINO, "openvino", {"running": 2, "rejections": 1}, {"other": 11}),
    ],
)  # fmt: skip
def test_other_names(text: str, engine: str, values: dict[str, float], finished: dict[str, float]) -> None:
    """Earlier names of vLLM's, TensorRT-LLM's and OpenVINO's give the same figures, as far as they have them."""
    reading = read(text, 0)
    assert (reading.engine, reading.values, reading.finished) == (engine, values, finished)


def test_several_engines_are_one_server() -> None:
    """Requests and tokens of replicas are added up; of the cache, the fullest counts."""
    other = "".join(
        f"{line}\n".replace('engine="0"', 'engine="1"')
        for line in page(num_requests_running=5, kv_cache_usage_perc=0.7, generation_tokens_total=100).splitlines()
        if not line.startswith("#")
    )
    values = read(page(num_requests_running=2, kv_cache_usage_perc=0.9, generation_tokens_total=1) + other, 0).values
    assert (values["running"], values["kv_cache_usage"], values["generation_tokens"]) == (7, 0.9, 101)


def test_figures_that_are_no_numbers_are_none() -> None:
    """NaN and infinity are what a server says that does not know."""
    values = read(page(num_requests_running=float("nan"), kv_cache_usage_perc=inf), 0).values
    assert "running" not in values
    assert "kv_cache_usage" not in values


@pytest.mark.parametrize(
    "text", ["", "<html>", '[{"iter": 1}]', "process_cpu_seconds_total 1.0\n", "vllm:num_requests_running{"]
)
def test_pages_that_say_nothing(text: str) -> None:
    """No page of metrics, or one of something else."""
    with pytest.raises(NoMetrics):
        read(text, 0)


@given(st.text() | st.text(alphabet='{}"=,\\ \n#0123456789.eE+-a').map(lambda text: f"vllm:num_requests_running{text}"))
@example('vllm:num_requests_running{a="1} 2')
@example("vllm:num_requests_running 1 2 3 4")
def test_nonsense_is_refused_or_read(text: str) -> None:
    """Whatever a server sends, it is read or it has no metrics."""
    try:
        reading = read(text, 0)
    except NoMetrics:
        return
    assert reading.values.keys() <= FIGURES.keys()
