"""The dashboard and the rules in contrib: they ask for what there is."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from lxcd.config.daemon import endpoint
from lxcd.rpc.metrics import Facts, Snapshot
from tests.unit.rpc.sampled import full, read, text_of

CONTRIB = Path(__file__).resolve().parents[3] / "contrib"
DASHBOARD: dict[str, Any] = json.loads((CONTRIB / "grafana/lxcd.json").read_bytes())
TARGETS = [(p["title"], t) for p in DASHBOARD["panels"] for t in p.get("targets", ())]
RULES = yaml.safe_load((CONTRIB / "prometheus/lxcd-rules.yml").read_bytes())["groups"][0]["rules"]
EXPRESSIONS = [target["expr"] for _, target in TARGETS] + [rule["expr"] for rule in RULES]


def told() -> dict[str, set[str]]:
    """The labels of every sample that there is, by its name."""
    text = text_of(Snapshot([full()], Facts("1", 1, {"running": 1})))
    return {sample.name: set(sample.labels) for family in read(text) for sample in family.samples}


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_every_metric_is_told(expression: str) -> None:
    known = told()
    words = re.findall(r"\blxcd_\w+", re.sub(r'"[^"]*"', "", expression))
    assert words or 'up{job="lxcd"}' in expression
    assert set(words) <= set(known)
    for name, selector in re.findall(r"(lxcd_\w+)\{([^}]*)\}", expression):
        asked = set(re.findall(r"(\w+)\s*(?:=~|!=|=)", selector))
        # Prometheus itself adds where it was told so.
        assert asked - {"instance"} <= known[name]


@pytest.mark.parametrize("expression", [e for e in EXPRESSIONS if "rate(" in e])
def test_rates_are_of_counters(expression: str) -> None:
    for inside in re.findall(r"(?:rate|increase)\((lxcd_\w+)", expression):
        assert inside.endswith("_total")


def test_it_is_a_dashboard() -> None:
    assert DASHBOARD["schemaVersion"] >= 36
    assert DASHBOARD["title"]
    assert DASHBOARD["uid"]
    # Grafana gives it one.
    assert "id" not in DASHBOARD
    panels = DASHBOARD["panels"]
    numbers = [panel["id"] for panel in panels]
    assert len(set(numbers)) == len(numbers)
    for panel in panels:
        assert panel["title"]
        assert (panel["type"] == "row") != bool(panel.get("targets"))
        names = [target["refId"] for target in panel.get("targets", ())]
        assert len(set(names)) == len(names)
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24


def test_no_panel_lies_on_another() -> None:
    cells = [
        (x, y)
        for place in (panel["gridPos"] for panel in DASHBOARD["panels"])
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(set(cells)) == len(cells)


def test_its_variables() -> None:
    variables = {one["name"]: one for one in DASHBOARD["templating"]["list"]}
    assert set(variables) == {"datasource", "instance", "container"}
    assert variables["datasource"]["query"] == "prometheus"
    used = set(re.findall(r"\$\{?(\w+)", json.dumps(DASHBOARD)))
    # Grafana's own begin with two underscores.
    assert {name for name in used if not name.startswith("__")} == set(variables)
    asked = variables["container"]["definition"] + variables["instance"]["definition"]
    assert set(re.findall(r"\blxcd_\w+", asked)) <= set(told())


def test_the_example_asks_where_one_may_listen() -> None:
    text = (CONTRIB / "prometheus/prometheus.yml").read_text()
    (address,) = yaml.safe_load(text)["scrape_configs"][0]["static_configs"][0]["targets"]
    assert endpoint(address).port
    assert f'metrics_listen = "{address}"' in text
