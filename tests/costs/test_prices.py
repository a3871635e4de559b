"""The price table: what it may say, and what requests cost by it, to the last digit."""

import json
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.errors import InvalidSettings
from retrieval.config import Settings, load
from retrieval.costing import NO_COST, PRICED_BACKENDS, Prices
from retrieval.documents import Usage
from retrieval.placement import BACKENDS

SettingsWith = Callable[..., Settings]

PRICES = """
gpu_second = "0.0007"

[tokens."Qwen/Qwen3-8B"]
prompt = "0.20"
cached_prompt = 0.05
completion = 0.6

[tokens.embedder]
embedding = 0.02

[tokens."*"]
prompt = 1
completion = 2

[vectors]
pgvector = "0.0001"
pinecone = 0.02
"""


def test_an_answer_costs_its_tokens(settings_with: SettingsWith) -> None:
    """Prompt, cached prompt and completion have prices of their own; cached tokens are part of the prompt's."""
    prices = Prices.from_settings(settings_with(prices=PRICES))
    usage = Usage(prompt_tokens=1_000, cached_tokens=400, completion_tokens=50)
    cost = prices.of_generation("Qwen/Qwen3-8B", usage)
    assert cost.total_usd == Decimal("0.000170")  # 600 * 0.20 + 400 * 0.05 + 50 * 0.6 = 170 millionths
    assert (cost.by_stage, cost.unpriced) == ({"generate": cost.total_usd}, [])


def test_a_model_without_a_price_of_its_own(settings_with: SettingsWith) -> None:
    """The price "*" is that of every model without one; cached tokens cost what others do where nothing is said."""
    prices = Prices.from_settings(settings_with(prices=PRICES))
    cost = prices.of_generation("another", Usage(prompt_tokens=10, cached_tokens=4, completion_tokens=1))
    assert cost.total_usd == Decimal("0.000012")


def test_a_search_counts_every_vector_of_its_collection(settings_with: SettingsWith) -> None:
    """A search stands before all of a collection's vectors, and its query takes seconds where the model is here."""
    prices = Prices.from_settings(settings_with(prices=PRICES))
    cost = prices.of_retrieval(backend="pinecone", chunks=3_000_000, embed_tokens=9, embed_s=0.25)
    assert cost.by_stage == {"embed": Decimal("0.000175"), "search": Decimal("0.06")}


def test_an_endpoint_is_paid_by_the_token(settings_with: SettingsWith) -> None:
    """With an embeddings endpoint a query costs its tokens, whatever it waited."""
    settings = settings_with(prices=PRICES, embedding_url="http://127.0.0.1:1/v1", embedding_model="embedder")
    cost = Prices.from_settings(settings).of_retrieval(backend="pgvector", chunks=0, embed_tokens=50, embed_s=0.25)
    assert cost.by_stage == {"embed": Decimal("0.000001"), "search": Decimal(0)}


def test_what_has_no_price_is_not_free(settings_with: SettingsWith) -> None:
    """Unpriced use is told by stage, and keeps its counts; what was not used needs no price."""
    prices = Prices.from_settings(settings_with(prices='[tokens."*"]\nprompt = 1\n'))
    cost = prices.of_retrieval(backend="faiss", chunks=7) + prices.of_generation("m", Usage(prompt_tokens=3))
    assert (cost.total_usd, cost.unpriced) == (Decimal("0.000003"), ["search"])
    assert [dict(charge.used) for charge in cost.charges] == [{"vectors": 7}, {"prompt": 3}]
    cut = prices.of_generation("m", Usage(prompt_tokens=3, completion_tokens=1))
    assert (cut.total_usd, cut.unpriced) == (Decimal("0.000003"), ["generate"])


def test_without_prices_nothing_is_priced() -> None:
    """Without the setting all use is unpriced, and an answer of the extractive generator used nothing."""
    prices = Prices.from_settings(load())
    assert not prices
    assert prices.of_generation("m", Usage(prompt_tokens=1)).unpriced == ["generate"]
    assert prices.of_generation("extractive", Usage()).unpriced == []
    assert NO_COST.as_dict() == {"total_usd": 0.0, "by_stage": {}, "unpriced": []}


@given(st.decimals("0", "999", places=12), st.integers(0, 10**9), st.integers(0, 10**9), st.integers(1, 50))
def test_sums_are_exact(price: Decimal, prompt: int, completion: int, times: int) -> None:
    """Adding costs loses no digit, however often: the sum is the product."""
    unit = price.scaleb(-6)
    prices = Prices(tokens={"m": {"prompt": unit, "completion": unit}})
    one = prices.of_generation("m", Usage(prompt_tokens=prompt, completion_tokens=completion))
    total = sum((one for _ in range(times)), NO_COST).total_usd
    numerator = int(price.scaleb(12)) * (prompt + completion) * times
    assert int(total.scaleb(18)) == numerator


def test_json_says_the_same_as_toml(settings_with: SettingsWith, tmp_path: Path) -> None:
    """A .json file has the same keys."""
    table = {
        "gpu_second": "0.0007",
        "tokens": {
            "Qwen/Qwen3-8B": {"prompt": "0.20", "cached_prompt": 0.05, "completion": 0.6},
            "embedder": {"embedding": 0.02},
            "*": {"prompt": 1, "completion": 2},
        },
        "vectors": {"pgvector": "0.0001", "pinecone": 0.02},
    }
    (tmp_path / "prices.json").write_text(json.dumps(table), encoding="utf-8")
    from_json = Prices.from_settings(load(prices=str(tmp_path / "prices.json"), embedding_model="hashing"))
    assert from_json == Prices.from_settings(settings_with(prices=PRICES))


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("gpu_second = -1", "prices.gpu_second"),
        ("gpu_second = nan", "prices.gpu_second"),
        ("gpu_second = inf", "prices.gpu_second"),
        ("gpu_second = true", "prices.gpu_second"),
        ('gpu_second = "much"', "prices.gpu_second"),
        ("gpu_second = 1e-13", "prices.gpu_second"),
        ("gpu_second = 1234567890.1234567", "prices.gpu_second"),
        ("gpu_second = 1e99", "prices.gpu_second"),
        ("gpu_seconds = 1", "prices.gpu_seconds"),
        ("vectors = 3", "prices.vectors"),
        ("[vectors]\nchroma = 1", "prices.vectors.chroma"),
        ("[tokens]\nm = 1", 'prices.tokens."m"'),
        ("[tokens.m]\ninput = 1", 'prices.tokens."m".input'),
        ("[tokens.m]\nprompt = [1]", 'prices.tokens."m".prompt'),
        ("[tokens.m", "prices"),
    ],
)
def test_a_table_that_is_wrong_names_the_key(settings_with: SettingsWith, text: str, field: str) -> None:
    """What is no price, and what is no key, is refused by its name, before anything is served."""
    with pytest.raises(InvalidSettings) as refused:
        Prices.from_settings(settings_with(prices=text))
    assert refused.value.field == field


@pytest.mark.parametrize("content", [None, b"\xff", b"[" * 100_000])
@pytest.mark.parametrize("ending", ["toml", "json"])
def test_a_file_that_cannot_be_read(tmp_path: Path, content: bytes | None, ending: str) -> None:
    """A file that is not there, is no text, or is nested without end is a setting that is wrong."""
    path = tmp_path / f"prices.{ending}"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InvalidSettings, match=f"prices.{ending}"):
        Prices.from_settings(load(prices=str(path)))


def test_every_backend_can_have_a_price() -> None:
    """The backends of the price table are those that there are."""
    assert set(PRICED_BACKENDS) == set(BACKENDS)
