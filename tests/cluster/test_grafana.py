"""The Grafana dashboard: it draws every metric that a run exports, and no other."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from omatg_ray.distributed.telemetry import COUNTERS, MEASURES, RUN

DASHBOARD = Path(__file__).resolve().parents[2] / "cluster" / "grafana" / "omatg_ray.json"
QUERY = re.compile(r'^(max|sum) by \(([\w, ]+)\) \((ray_\w+)\{run=~"\$run"\}\)$')


@pytest.fixture(scope="module")
def dashboard() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(DASHBOARD.read_text())
    return found


def targets(dashboard: dict[str, Any]) -> list[dict[str, Any]]:
    return [target for panel in dashboard["panels"] for target in panel["targets"]]


def exported() -> dict[str, set[str]]:
    """Tags of every metric, by the name that Prometheus knows it by."""
    return {f"ray_{name}{'_total' * (name in COUNTERS.values())}": {RUN, *tag} for name, (_, *tag) in MEASURES.items()}


def test_it_draws_every_metric_that_is_exported_and_no_other(dashboard: dict[str, Any]) -> None:
    named = {name for target in targets(dashboard) for name in re.findall(r"ray_\w+", target["expr"])}
    assert named == set(exported())
    (variable,) = (one for one in dashboard["templating"]["list"] if one["name"] == "run")
    assert variable["query"]["query"] == "label_values(ray_omatg_ray_iteration, run)"


def test_series_differ_in_tags_that_the_metrics_have(dashboard: dict[str, Any]) -> None:
    for target in targets(dashboard):
        match = QUERY.match(target["expr"])
        assert match, target["expr"]
        how, tags, name = match.groups()
        assert set(tags.split(", ")) == exported()[name]
        assert (how == "sum") == name.endswith("_total")
        assert set(re.findall(r"{{(\w+)}}", target["legendFormat"])) <= exported()[name]


def test_panels_have_what_grafana_needs_and_do_not_overlap(dashboard: dict[str, Any]) -> None:
    assert dashboard["schemaVersion"] >= 36 and dashboard["title"] and dashboard["uid"]
    panels = dashboard["panels"]
    assert len({panel["id"] for panel in panels}) == len({panel["title"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        assert panel["type"] in ("timeseries", "stat") and panel["description"]
        refs = [target["refId"] for target in panel["targets"]]
        assert refs and len(set(refs)) == len(refs)
        assert {one["datasource"]["uid"] for one in (panel, *panel["targets"])} == {"${datasource}"}
        at = panel["gridPos"]
        cells = {(at["x"] + i, at["y"] + j) for i in range(at["w"]) for j in range(at["h"])}
        assert max(x for x, _ in cells) < 24 and not cells & taken
        taken |= cells


@pytest.mark.parametrize("name", sorted(MEASURES))
def test_names_are_those_that_prometheus_takes(name: str) -> None:
    assert re.fullmatch(r"omatg_ray_[a-z_]+", name) and not name.endswith("_total")
