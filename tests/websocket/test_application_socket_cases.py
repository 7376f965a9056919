"""The case list of RFC 6455 and 7692 against an application that echoes by its own socket."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.serving import ROOT, Server, serving
from tests.websocket.test_cases import (  # noqa: F401 -- collected here, for the server below
    test_bomb_is_refused_with_1009,
    test_bytes_behind_the_handshake_are_kept,
    test_case_is_answered_as_the_standard_says,
    test_compressed_messages_are_echoed_whatever_was_offered,
    test_damaged_compressed_message_is_refused_with_1007,
    test_group_and_large_echo_are_compressed_on_the_wire,
    test_large_message_is_echoed,
    test_many_round_trips_keep_their_order,
    test_many_round_trips_of_a_size_take_seconds,
    test_message_in_many_segments_is_echoed,
    test_message_in_very_many_fragments_is_echoed,
    test_nothing_of_all_that_was_an_error_to_the_server,
    test_pings_between_fragments_are_answered_before_the_message_is_whole,
    test_wrong_text_is_refused_at_its_first_wrong_part_and_not_before,
    test_wrong_text_is_refused_while_its_frame_is_still_coming,
)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serving("tests.websocket.apps.raw", "--ws-max-size", str(16 << 20), cwd=ROOT) as started:
        yield started
