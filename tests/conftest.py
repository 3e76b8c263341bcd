"""What all tests share: readable errors from helper modules, and the machine in the header."""

from __future__ import annotations

import pytest

pytest.register_assert_rewrite("op_cases")


def pytest_report_header() -> str:
    """The instruction set levels that the tests run on."""
    from fastnn.kernels import aot

    return f"fastnn: kernels for {', '.join(aot.AVAILABLE)}; {aot.choose_isa()} in use"
