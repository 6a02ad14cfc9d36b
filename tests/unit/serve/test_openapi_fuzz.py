"""Requests that schemathesis draws from the OpenAPI document: no 500, and no answer that contradicts the document."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

from ragray.serve.ingress import Door, http_api

schemathesis = pytest.importorskip("schemathesis")
# A schema cannot say that a text of blanks asks nothing, or which lengths this server's settings allow.
positive_data_acceptance = pytest.importorskip("schemathesis.specs.openapi.checks").positive_data_acceptance


CHAT, SEARCH = ("/v1/chat/completions", "POST"), ("/v1/search", "POST")
READ = [("/v1/models", "GET"), ("/v1/models/{model}", "GET"), ("/healthz", "GET"), ("/readyz", "GET")]


@pytest.mark.parametrize(
    ("operation", "mode"),
    [(operation, "POSITIVE") for operation in (CHAT, SEARCH, *READ)] + [(CHAT, "NEGATIVE"), (SEARCH, "NEGATIVE")],
    ids=str,
)
def test_every_answer_fits_the_document(door: Door, operation: tuple[str, str], mode: str) -> None:
    path, method = operation
    schema = schemathesis.openapi.from_asgi("/openapi.json", http_api(door))
    cases = schema[path][method].as_strategy(generation_mode=schemathesis.GenerationMode[mode])

    @settings(max_examples=40, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
    @given(case=cases)
    def check(case: Any) -> None:
        response = case.call_and_validate(excluded_checks=[positive_data_acceptance])
        assert response.status_code in (200, 400, 404)

    check()
