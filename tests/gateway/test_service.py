"""What the service says about itself."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from chronolens_gateway.app import create_app
from chronolens_gateway.settings import Settings


def test_gateway_and_runner_never_load_torch() -> None:
    code = "import sys, chronolens_gateway.main, chronolens_gateway.runner; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_two_applications_live_in_one_process(tmp_path: Path) -> None:
    first, second = create_app(Settings(data_dir=tmp_path / "a")), create_app(Settings(data_dir=tmp_path / "b"))
    assert first is not second
    assert not (tmp_path / "a").exists()  # nothing is opened before the start


def test_health_and_readiness(server: Any) -> None:
    assert server.http.get("/healthz").json() == {"status": "ok"}
    ready = server.http.get("/readyz")
    assert ready.status_code == 200
    assert ready.json()["parts"] == {"database": True, "engine": True, "runner": True}


def test_models(server: Any) -> None:
    (model,) = server.http.get("/v1/models").json()["models"]
    assert model["name"] == "clstm-tiny"
    assert model["classes"] == ["up", "down", "left", "right"]
    assert model["clip"]["frames"] == 16
    assert server.http.get("/v1/models/clstm-tiny").json() == model
    missing = server.http.get("/v1/models/other")
    assert (missing.status_code, missing.json()["code"]) == (404, "not-found")


def test_limits(server: Any) -> None:
    limits = server.http.get("/v1/limits").json()
    assert limits["clip_bytes"] == 64 * 1024 * 1024
    assert limits["text_part_bytes"] == 65536
    assert limits["decode"]["max_frames"] == 3600


def test_metrics_have_one_prefix_and_bounded_labels(server: Any) -> None:
    server.http.get("/v1/models/clstm-tiny")
    server.http.get("/no/such/route/of/anybody")
    text = server.http.get("/metrics").text
    names = [line.split("{")[0].split(" ")[0] for line in text.splitlines() if not line.startswith("#")]
    assert names
    assert all(name.startswith("chronolens_") for name in names)
    assert 'route="/v1/models/{model}"' in text
    assert "no/such/route" not in text
    assert 'chronolens_ready{part="engine"} 1.0' in text


def test_passes_are_counted_by_model_purpose_and_direction(own_server: Any, clip: Path) -> None:
    def counts() -> dict[tuple[str, ...], float]:
        lines = [line for line in own_server.http.get("/metrics").text.splitlines() if line.startswith("chronolens_passes_total{")]
        labels = [tuple(re.findall(r'="([^"]*)"', line)) for line in lines]  # direction, model, purpose
        return {key: float(line.rsplit(" ", 1)[1]) for key, line in zip(labels, lines, strict=True)}

    own_server.http.get("/v1/models")  # by now the model is loaded
    before = counts()
    assert before["forward", "clstm-tiny", "load"] == 1
    result = own_server.wait(own_server.submit(clip, mask={"steps": 5}))["result"]
    spent = {key: value - before.get(key, 0.0) for key, value in counts().items()}
    for purpose, passes in result["passes"]["by_purpose"].items():
        assert sum(value for key, value in spent.items() if key[2] == purpose) == passes
        assert passes > 0 or purpose in ("scores", "chance")
    for direction in ("forward", "input_gradient", "weight_gradient"):
        assert sum(value for key, value in spent.items() if key[0] == direction) == result["passes"][direction]
    assert result["passes"]["weight_gradient"] == 0


def test_openapi_documents_problems_and_the_form(server: Any) -> None:
    document = server.http.get("/openapi.json").json()
    post = document["paths"]["/v1/explanations"]["post"]
    form = post["requestBody"]["content"]["multipart/form-data"]["schema"]
    assert form["required"] == ["clip"]
    assert set(form["properties"]) >= {"clip", "options", "model", "methods", "target"}
    assert {"200", "202", "400", "413", "415", "422", "500", "503"} <= set(post["responses"])
    assert list(post["responses"]["422"]["content"]) == ["application/problem+json"]
    assert "ExplanationOptions" in document["components"]["schemas"]
    assert "MaskOptions" in document["components"]["schemas"]
    assert "HTTPValidationError" not in str(document)
    schemas = {f"#/components/schemas/{name}" for name in document["components"]["schemas"]}
    assert set(re.findall(r"#/[A-Za-z/]+/[A-Za-z]+", json.dumps(document))) <= schemas


def test_every_answer_has_an_identifier_and_nosniff(server: Any) -> None:
    answer = server.http.get("/healthz", headers={"X-Request-ID": "abc-1"})
    assert answer.headers["x-request-id"] == "abc-1"
    assert answer.headers["x-content-type-options"] == "nosniff"
    strange = server.http.get("/healthz", headers={"X-Request-ID": "a b<script>"})
    assert strange.headers["x-request-id"].isalnum()


def test_front_page_points_to_the_documentation(server: Any) -> None:
    page = server.http.get("/")
    assert page.status_code == 200
    assert "/openapi.json" in page.text
