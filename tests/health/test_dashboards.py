"""The dashboard and the alert rules load, and ask for nothing that a service does not export."""

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import promql_parser as promql
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

import retrieval
from backends.corpus.backups import record_run
from ops import generation, latency, recall
from ops.backup_metrics import BackupMetrics
from ops.generation_metrics import GenerationMetrics
from ops.health import running
from ops.health_metrics import HealthMetrics
from ops.latency.exposition import LatencyMetrics
from ops.latency.stages import OUTCOMES, STAGES
from ops.recall import statistics, watching
from ops.recall_metrics import RecallMetrics
from retrieval.config import load
from retrieval.placement import BACKENDS
from retrieval.service import create_app
from tests.generation.engine_server import PAGE, engine_server
from tests.health.test_backups import RUN
from tests.health.watched import corpus_of_its_own, drawn, made_in
from tests.latency.watching import answered
from tests.service.serving import served

DASHBOARDS = Path(__file__).parents[2] / "dashboards"
GRAFANA = {"$__rate_interval": "5m", "$collection": ".*", "$backend": ".*"}
"""What Grafana puts in place of its variables."""
VALUES = {
    "check": {function.__name__ for function in (*running.CHECKS, *running.CORPUS_CHECKS)} | {"index_orphans"},
    "stage": set(STAGES),
    "outcome": set(OUTCOMES),
    "backend": set(BACKENDS),
    "depth": {"sizes", "hashes", "drill"},
    "status": {"200", "404", "429", "503", "500"},
}
"""What labels may say: a matcher that matches none of them is a slip of the pen."""

Exported = dict[str, set[str]]


@pytest.fixture(scope="module")
def exported(postgres_url: str) -> Exported:
    """Every sample that a service exports that has been searched, backed up and looked at, and its labels."""
    with (
        engine_server() as engine,
        corpus_of_its_own(postgres_url, "health_dashboards") as url,
        retrieval.open(url, settings=load(embedding_model="hashing", generator_url=engine.url)) as rag,
    ):
        engine.text = f"{PAGE}vllm:kv_block_idle_before_evict_seconds_count 1\ntrtllm_kv_cache_missed_blocks_total 1\n"
        made_in(rag, count=30)
        record_run(rag.database, RUN)
        for depth in ("hashes", "drill"):
            record_run(rag.database, replace(RUN, kind="verify", depth=depth))
        health, text = HealthMetrics(rag, every_s=0), ""
        with (
            latency.record(rag) as latencies,
            recall.running(rag) as capture,
            generation.running(rag) as telemetry,
        ):
            measured = RecallMetrics(rag, capture)
            measured.look.known, measured.look.looked_s = [_standing()], float("inf")
            health.look()
            assert rag.generator
            assert telemetry.engine
            telemetry.engine.look()
            telemetry.answers(answered(generate=200, answer=212))
            collectors = [
                BackupMetrics(rag.database),
                LatencyMetrics(latencies),
                GenerationMetrics(rag, telemetry),
                measured,
                health,
            ]
            with served(create_app(rag, collectors=collectors)) as service:
                asked = {"embedding": drawn(1, 1)[0].tolist()}
                httpx.post(f"{service}/v1/collections/handbook/search", json=asked).raise_for_status()
                rag.embedder.embed(["a text"], "query")
                text = httpx.get(f"{service}/metrics").text
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    found: Exported = {}
    for sample in samples:
        found.setdefault(sample.name, set()).update(sample.labels)
    return found


def _standing() -> watching.Standing:
    summary = statistics.summary([0.9, 1.0, 1.0, 0.8])
    return watching.Standing(collection="handbook", backend="faiss", band="all", target=0.95, recall=summary)


@pytest.fixture(scope="module")
def dashboard() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((DASHBOARDS / "grafana-ragstone.json").read_text(encoding="utf-8"))
    return found


@pytest.fixture(scope="module")
def alerts() -> list[dict[str, Any]]:
    document = yaml.safe_load((DASHBOARDS / "prometheus-alerts.yml").read_text(encoding="utf-8"))
    return [rule for group in document["groups"] for rule in group["rules"]]


def queries(dashboard: dict[str, Any]) -> Iterator[str]:
    for panel in dashboard["panels"]:
        yield from (target["expr"] for target in panel.get("targets", []))


def parsed(text: str) -> promql.Expr:
    """Parse what Prometheus would get."""
    for variable, value in GRAFANA.items():
        text = text.replace(variable, value)
    assert "$" not in text, text
    return promql.parse(text)


def nodes(expression: promql.Expr) -> list[Any]:
    """Return all parts of an expression."""
    found: list[Any] = []
    promql.walk(expression, found.append)
    return found


def check_selectors(text: str, exported: Exported) -> set[str]:
    """Check that metrics, labels and label values of a query exist, and return the metrics."""
    parts = nodes(parsed(text))
    named = set()
    for selector in (part for part in parts if isinstance(part, promql.VectorSelector)):
        assert selector.name in exported, f"{selector.name} is not exported: {text}"
        named.add(selector.name)
        for matcher in selector.matchers.matchers:
            assert matcher.name in exported[selector.name], f"{selector.name} has no label {matcher.name}: {text}"
            check_values(matcher, text)
    labels = set().union(*(exported[name] for name in named)) | {"le"}
    for part in (part for part in parts if isinstance(part, promql.AggregateExpr)):
        assert set(part.modifier.labels if part.modifier else ()) <= labels, text
    assert named, text
    return named


def check_values(matcher: promql.Matcher, text: str) -> None:
    known, op = VALUES.get(matcher.name, set()), str(matcher.op)
    pattern = matcher.value if "Re" in op else re.escape(matcher.value)
    matching = {value for value in known if re.fullmatch(pattern, value)}
    assert not known or matching, f"no {matcher.name} is {matcher.value}: {text}"
    parts = re.sub(r"[(].*[)]", "", matcher.value).split("|") if matcher.name == "check" else []
    assert all(part in known or part.endswith("_") for part in parts), text


def test_the_dashboard_loads(dashboard: dict[str, Any]) -> None:
    """It has what Grafana 10 wants: one datasource, which is a variable; panels with ids of their own, side by side."""
    assert dashboard["schemaVersion"] >= 38
    variables = {variable["name"]: variable["type"] for variable in dashboard["templating"]["list"]}
    assert [name for name, kind in variables.items() if kind == "datasource"] == ["datasource"]
    panels = dashboard["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    sources = {json.dumps(target["datasource"]) for panel in panels for target in panel.get("targets", [])}
    assert sources == {json.dumps({"type": "prometheus", "uid": "${datasource}"})}
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        cells = {(place["x"] + dx, place["y"] + dy) for dx in range(place["w"]) for dy in range(place["h"])}
        assert not cells & taken, panel["title"]
        taken |= cells
    assert all(panel["targets"] for panel in panels if panel["type"] != "row")


def test_the_dashboard_asks_for_what_there_is(dashboard: dict[str, Any], exported: Exported) -> None:
    """Every query parses; its metrics, their labels and what these are to say exist."""
    named = set().union(*(check_selectors(text, exported) for text in queries(dashboard)))
    ours = {name for name in exported if name.startswith("ragstone_") and not name.endswith(("_created", "_sum"))}
    unseen = {re.sub(r"_(bucket|count)$", "", name) for name in ours - named} - {
        re.sub(r"_(bucket|count)$", "", name) for name in named
    }
    assert unseen <= {"ragstone_embedder_tokens_total", "ragstone_latency_dropped_total"}


def test_variables_are_filled_from_labels_that_exist(dashboard: dict[str, Any], exported: Exported) -> None:
    """What can be chosen comes from metrics."""
    for variable in dashboard["templating"]["list"]:
        if variable["type"] == "query":
            found = re.fullmatch(r"label_values\((\w+), (\w+)\)", variable["definition"])
            assert found, variable
            assert found[2] in exported[found[1]]
            assert variable["name"] in {name.strip("$") for name in GRAFANA}


def test_legends_show_labels_that_are_left(dashboard: dict[str, Any], exported: Exported) -> None:
    """A legend names no label that its query has summed away."""
    for panel in dashboard["panels"]:
        for target in panel.get("targets", []):
            shown = set(re.findall(r"{{(\w+)}}", target["legendFormat"]))
            assert shown <= labels_left(target["expr"], exported), panel["title"]


def labels_left(text: str, exported: Exported) -> set[str]:
    """Return the labels that the result of a query can have."""
    left: set[str] = set()
    for part in nodes(parsed(text)):
        if isinstance(part, promql.AggregateExpr):
            return set(part.modifier.labels) if part.modifier else set()
        if isinstance(part, promql.VectorSelector):
            left |= exported[part.name]
    return left


def test_alert_rules_load(alerts: list[dict[str, Any]], exported: Exported) -> None:
    """Each rule has what Prometheus takes and no more, and what it asks for exists."""
    assert len({rule["alert"] for rule in alerts}) == len(alerts)
    for rule in alerts:
        assert rule.keys() <= {"alert", "expr", "for", "labels", "annotations"}
        assert re.fullmatch(r"\d+[smhd]", rule.get("for", "0s"))
        assert rule["labels"]["severity"] in ("page", "ticket")
        assert {"summary", "description"} == rule["annotations"].keys()
        check_selectors(rule["expr"], exported)
        shown = set(re.findall(r"\$labels\.(\w+)", " ".join(rule["annotations"].values())))
        assert shown <= labels_left(rule["expr"], exported), rule["alert"]


def test_alerts_cover_what_can_go_wrong(alerts: list[dict[str, Any]]) -> None:
    """Recall, p99, health, an index that is away, backups, the pool and the model server each have one."""
    told = " ".join(rule["expr"] for rule in alerts)
    for name in (
        "ragstone_recall_below_target",
        "ragstone_stage_duration_seconds_bucket",
        "ragstone_health_check",
        "index_away",
        "ragstone_backup_last_success_timestamp_seconds",
        "ragstone_backup_last_verified_timestamp_seconds",
        "ragstone_backup_last_outcome",
        "ragstone_database_requests_waiting",
        "ragstone_engine_up",
        "ragstone_engine_kv_cache_usage_ratio",
        "ragstone_engine_preemptions_total",
        "ragstone_engine_requests_waiting",
        "ragstone_engine_generation_tokens_total",
        "first_token_growth",
        "ragstone_generation_refused_total",
    ):
        assert name in told


def test_alerts_on_backups_are_those_of_the_readme(alerts: list[dict[str, Any]]) -> None:
    """One rule is told in two places, and told alike."""
    readme = (DASHBOARDS.parent / "README.md").read_text(encoding="utf-8")
    blocks = [yaml.safe_load(text) for text in re.findall(r"```yaml\n(groups:.*?)```", readme, re.DOTALL)]
    told = [rule for block in blocks for group in block["groups"] for rule in group["rules"]]
    ours = {rule["alert"]: str(parsed(rule["expr"])) for rule in alerts}
    assert len(told) >= 3
    for rule in told:
        assert str(parsed(rule["expr"])) == ours[rule["alert"]]


@pytest.mark.parametrize(
    ("query", "reason"),
    [
        ("ragstone_pool_size", "is not exported"),
        ('ragstone_health_check{name="index_away"}', "has no label"),
        ('ragstone_health_check{check="index_gone"}', "no check is"),
        ("sum by (user) (ragstone_health_check)", "user"),
    ],
)
def test_slips_are_found(exported: Exported, query: str, reason: str) -> None:
    """What these tests look for they find."""
    with pytest.raises(AssertionError, match=reason):
        check_selectors(query, exported)
