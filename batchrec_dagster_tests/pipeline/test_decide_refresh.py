"""When the sensor of new files asks for a refresh, by the states that it sees."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from batchrec_dagster.pipeline.automation.new_files import MAX_TICKS_WAITED, Cursor, decide_refresh


@given(states=st.lists(st.sampled_from("abc"), max_size=40))
def test_the_last_state_is_taken_in_and_never_twice_in_a_row(states: list[str]) -> None:
    cursor, state_taken_in, keys, requested_states = Cursor(), "", [], []
    for state in [*states, *states[-1:] * 3]:
        result = decide_refresh(cursor, state, state_taken_in)
        assert result.cursor is not None
        cursor = Cursor.read(result.cursor)
        for request in result.run_requests or []:
            keys.append(request.run_key)
            requested_states.append(state)
            state_taken_in = state
    assert len(keys) == len({*keys})
    assert all(state != other for state, other in itertools.pairwise(requested_states))
    assert requested_states[-1:] == states[-1:]


def test_what_never_rests_is_taken_in_now_and_then() -> None:
    cursor, requests = Cursor(), 0
    for number in range(3 * (MAX_TICKS_WAITED + 1)):
        result = decide_refresh(cursor, str(number), "")
        cursor = Cursor.read(result.cursor)
        requests += len(result.run_requests or [])
    assert requests == 3
