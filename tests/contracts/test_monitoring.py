"""Dashboard and alerts ask for what a server exports, by its names and labels, and the page on operation has them."""

from __future__ import annotations

import json
import re
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from serving.metrics import COUNTERS, GAUGES, HISTOGRAMS, LAST_BATCH, ModelMetrics, UpdateCounts
from serving.readings import MEMORY, expose, families_of, processes_of
from serving.verb import VERBS, running_routes
from tests.contracts.promql import Kind, PromQLError, check

Samples = dict[str, tuple[Kind, frozenset[str]]]

DEPLOY = Path(__file__).parents[2] / "deploy"
DASHBOARD = json.loads((DEPLOY / "grafana-serving.json").read_text(encoding="utf-8"))
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
ALERTS = yaml.safe_load((DEPLOY / "prometheus-alerts.yaml").read_text(encoding="utf-8"))
RULES = [rule for group in ALERTS["groups"] for rule in group["rules"]]
TYPES = (
    dict.fromkeys(HISTOGRAMS, "histogram")
    | {f"{name}_total": "counter" for name in COUNTERS}
    | dict.fromkeys((*GAUGES, *LAST_BATCH, MEMORY), "gauge")
)
VARIABLES = {variable["name"]: variable for variable in DASHBOARD["templating"]["list"]}


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Samples:
    """Return the kind and the labels of every sample on the page of a server that has done something of each kind."""
    folder = tmp_path_factory.mktemp("server")
    metrics = ModelMetrics("digits", 3, folder)
    metrics.request("infer", 200, 0.1)
    metrics.rejected("overloaded")
    metrics.batch(requests=1, rows=1, waited=[0.0], seconds=0.1)
    UpdateCounts(folder).add("digits", "done")
    samples: Samples = {}
    for family in text_string_to_metric_families(expose(families_of(processes_of(folder))).decode()):
        for sample in family.samples:
            kind: Kind = "gauge" if family.type == "gauge" else "bucket" if "le" in sample.labels else "counter"
            samples[sample.name] = kind, frozenset(sample.labels)
    return samples


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel["title"])
def test_panel_asks_for_exported_samples(panel: dict[str, Any], exported: Samples) -> None:
    assert panel["fieldConfig"]["defaults"]["unit"]
    references = [target["refId"] for target in panel["targets"]]
    assert len(set(references)) == len(references) > 0
    for target in panel["targets"]:
        value, used = check(target["expr"], exported)
        assert used
        assert not value.is_range
        assert set(re.findall(r"{{(\w+)}}", target["legendFormat"])) <= value.labels
        assert set(re.findall(r"\$(\w+)", target["expr"])) <= {*VARIABLES, "__rate_interval"}


def test_dashboard_shows_every_exported_metric(exported: Samples) -> None:
    shown: set[str] = set().union(*(check(target["expr"], exported)[1] for p in PANELS for target in p["targets"]))

    def metrics(samples: set[str]) -> set[str]:
        return {re.sub("_(bucket|count|sum)$", "", sample) for sample in samples}

    assert metrics(shown) == metrics(set(exported)) == TYPES.keys()


def test_page_has_a_row_for_every_metric_with_its_type_and_labels(exported: Samples) -> None:
    page = (DEPLOY.parent / "docs" / "serving-operations.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(zorse_\w+)` \| (\w+) \|([^|]*)\|", page, re.MULTILINE)
    assert len(rows) == len(TYPES)
    assert {name: kind for name, kind, _ in rows} == TYPES
    for name, kind, labels in rows:
        _, found = exported[f"{name}_count" if kind == "histogram" else name]
        assert {*re.findall(r"`(\w+)`", labels)} == found - {"model", "version"}
        assert "version" in found or name == "zorse_updates_total"


def test_dashboard_takes_its_data_source_and_filters_from_variables(exported: Samples) -> None:
    assert VARIABLES["datasource"]["type"] == "datasource"
    source = {"type": "prometheus", "uid": "${datasource}"}
    queries = [variable for variable in VARIABLES.values() if variable["type"] == "query"]
    targets = [target for panel in PANELS for target in panel["targets"]]
    assert all(one["datasource"] == source for one in [*queries, *PANELS, *targets])
    for variable in queries:
        found = re.fullmatch(r"label_values\((\w+), (\w+)\)", variable["definition"])
        assert found is not None
        assert variable["query"]["query"] == variable["definition"]
        assert found[2] in exported[found[1]][1]
    # Other tests may have registered verbs of their own.
    of_others = [name for name in VERBS.names() if not VERBS.find(name).request.__module__.startswith("serving.")]
    assert VARIABLES["route"]["current"]["value"] == [name for name in running_routes() if name not in of_others]


def test_panels_have_ids_and_places_of_their_own() -> None:
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    for place in (panel["gridPos"] for panel in panels):
        assert 0 <= place["x"] <= place["x"] + place["w"] <= 24
    for one, other in combinations((panel["gridPos"] for panel in panels), 2):
        beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        assert beside or one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_alert_asks_for_exported_samples(rule: dict[str, Any], exported: Samples) -> None:
    assert rule.keys() <= {"alert", "expr", "for", "labels", "annotations"}
    samples: Samples = {**exported, "up": ("gauge", frozenset())}
    value, used = check(rule["expr"], samples)
    assert used
    assert re.search(r"==|>", rule["expr"])
    assert not value.is_range | value.is_scalar
    assert set(re.findall(r"\$labels\.(\w+)", rule["annotations"]["summary"])) <= value.labels
    assert rule["labels"].keys() == {"severity"}


@pytest.mark.parametrize(
    ("expression", "reason"),
    [
        ("sum by (model) (rate(zorse_requests_total[5m]))", "zorse_requests_total is not exported"),
        ('zorse_replicas{name="digits"}', "has no label name"),
        ("sum by (route) (zorse_replicas)", "by .'route'. is not in the labels"),
        ("rate(zorse_replicas[5m])", "needs a range of a counter"),
        ("rate(zorse_rows_total)", "needs a range of a counter"),
        ("sum by (model) (zorse_rows_total[5m])", "needs series of single values"),
        ("histogram_quantile(0.9, sum by (model) (rate(zorse_queue_seconds_bucket[5m])))", "with their label le"),
        ("histogram_quantile(0.9, sum by (le) (rate(zorse_queue_seconds_count[5m])))", "by .'le'. is not in"),
        ("histogram_quantile(99, sum by (le) (rate(zorse_queue_seconds_bucket[5m])))", "needs a share"),
        ("sum by (model) (zorse_queued) / sum by (version) (zorse_queued)", "never match"),
        ("zorse_queued / on (route) zorse_in_flight", "is not in the labels of both operands"),
        ("sum by (model) (zorse_queued))", "is left over"),
        ("sum by (model) (zorse_queued", "is missing"),
        ("mean(zorse_queued)", "function mean is not known"),
        ("zorse_queued{model~'digits'}", "cannot read"),
        ('zorse_queued{model>"digits"}', "does not compare labels"),
        ("", "stands in the place of"),
    ],
)
def test_expression_that_a_server_cannot_answer_is_refused(expression: str, reason: str, exported: Samples) -> None:
    with pytest.raises(PromQLError, match=reason):
        check(expression, exported)


def test_expression_has_the_labels_that_prometheus_returns(exported: Samples) -> None:
    def labels(expression: str) -> frozenset[str]:
        return check(expression, exported)[0].labels

    targets = {"job", "instance"}
    assert labels("zorse_queued") == {"model", "version", *targets}
    assert labels("2 * sum by (model) (zorse_queued) > 1") == {"model"}
    assert labels("time() - zorse_last_batch_timestamp_seconds") == {"model", "version", *targets}
    assert labels("rate(zorse_rows_total[1m]) / on (model) sum by (model) (zorse_replicas)") == {"model"}
    assert labels("histogram_quantile(0.5, rate(zorse_queue_seconds_bucket[1m]))") == {"model", "version", *targets}
