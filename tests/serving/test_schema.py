from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import schemathesis
from hypothesis import settings
from schemathesis.specs.openapi.checks import positive_data_acceptance

from hf_deepfake.serving.api import create_app
from hf_deepfake.serving.judging import Judge

UNDECIDED = [positive_data_acceptance]  # a schema cannot say which bytes are an image

seated: Any = SimpleNamespace()  # operations are collected before there is a judge
operations = schemathesis.openapi.from_asgi("/openapi.json", create_app(seated))


@pytest.fixture(scope="module", autouse=True)
def _judge(ensemble: Path) -> Iterator[None]:
    with Judge.load(str(ensemble), batch_size=4) as judge:
        seated.submit, seated.explain = judge.submit, judge.explain
        yield


@operations.parametrize()
@settings(max_examples=5, deadline=None, database=None)
def test_every_operation_answers_as_its_description_says(case: schemathesis.Case) -> None:
    case.call_and_validate(excluded_checks=UNDECIDED)


@pytest.mark.slow
@operations.parametrize()
@settings(max_examples=500, deadline=None, database=None)
def test_every_operation_answers_many_requests_as_its_description_says(case: schemathesis.Case) -> None:
    case.call_and_validate(excluded_checks=UNDECIDED)
