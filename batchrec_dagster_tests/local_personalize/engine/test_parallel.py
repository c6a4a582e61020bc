"""Tests of maps over all cores: their order, bounded work in flight, and a BLAS thread each."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from threadpoolctl import threadpool_info

from batchrec_dagster.local_personalize.engine.parallel import count_cores, ordered_map


def count_blas_threads() -> set[int]:
    return {int(pool["num_threads"]) for pool in threadpool_info() if pool["user_api"] == "blas"}


def test_results_are_in_order_and_inputs_are_taken_as_results_are_read() -> None:
    taken = []

    def numbers() -> Iterator[int]:
        for number in range(100):
            taken.append(number)
            yield number

    results = ordered_map(lambda number: number**2, numbers())
    assert next(results) == 0
    assert len(taken) <= 2 * count_cores()
    assert list(results) == [number**2 for number in range(1, 100)]


def test_blas_has_one_thread_meanwhile_and_what_it_had_before_afterwards() -> None:
    before = count_blas_threads()
    inside = list(ordered_map(lambda _: count_blas_threads(), range(4)))
    nested = list(
        ordered_map(lambda _: [*ordered_map(lambda _: count_blas_threads(), "ab")], range(3))
    )
    assert inside == [{1}] * 4
    assert nested == [[{1}, {1}]] * 3
    assert count_blas_threads() == before


def test_an_error_in_the_work_is_raised() -> None:
    def fail(number: int) -> int:
        raise ValueError(str(number))

    with pytest.raises(ValueError, match=r"^0$"):
        list(ordered_map(fail, range(3)))
