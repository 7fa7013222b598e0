"""The alerts view without a browser: what is asked of the detector, and reasons in words."""

from __future__ import annotations

from datetime import UTC, datetime
from urllib.parse import parse_qsl

import pytest

from serving.console.views.alerts import TransactionRecord, Wanted, worded
from serving.console.views.score import ReasonRecord


def test_an_address_says_which_list_is_shown_and_what_is_empty_is_not_asked_for() -> None:
    wanted = Wanted.of(
        {"alert": " block ", "version": "0123456789ab", "id": "", "since": "2026-11-28T01:00", "x": "y"}
    )
    assert wanted == Wanted(alert="block", version="0123456789ab", since="2026-11-28T01:00")
    asked = {name: value for name, value in wanted.parameters().items() if value is not None}
    assert asked == {"limit": 25, "version": "0123456789ab", "since": "2026-11-28T01:00", "alert": "block"}


@pytest.mark.parametrize("wanted", [Wanted(id="q1-0"), Wanted(alert="all"), Wanted(show="review")])
def test_one_transaction_the_whole_log_and_the_review_sample_are_asked_for_whatever_the_alert(
    wanted: Wanted,
) -> None:
    assert wanted.parameters().get("alert") is None


def test_the_review_sample_is_asked_for_by_its_cursor_alone() -> None:
    assert Wanted(show="review", version="v", cursor="c").parameters() == {"limit": 25, "cursor": "c"}


def test_a_link_keeps_the_list_and_changes_what_it_says() -> None:
    wanted = Wanted(alert="review", id="a&b=c", cursor="old")
    assert Wanted.of(dict(parse_qsl(wanted.query()))) == wanted
    assert Wanted.of(dict(parse_qsl(wanted.query(cursor=None)))) == Wanted(alert="review", id="a&b=c")


@pytest.mark.parametrize(
    ("wanted", "live"),
    [
        (Wanted(), True),
        (Wanted(alert="block", since="2026-11-28T01:00"), True),
        (Wanted(cursor="c"), False),
        (Wanted(until="2026-11-28T01:00"), False),
        (Wanted(id="q1-0"), False),
    ],
)
def test_only_a_list_to_which_something_can_come_is_loaded_again(wanted: Wanted, live: bool) -> None:
    assert wanted.is_live is live


@pytest.mark.parametrize(
    ("reason", "words"),
    [
        (("V14", -3.0, 0.5), "V14 low"),
        (("Amount", 900.0, 22.0), "Amount high"),
        (("Time", 86_400.0 + 3 * 3_600 + 59, 57_600.0), "hour 3"),
    ],
)
def test_a_reason_is_a_word(reason: tuple[str, float, float], words: str) -> None:
    feature, value, typical = reason
    assert worded(ReasonRecord(feature=feature, contribution=1.0, value=value, typical=typical)) == words


def test_the_three_largest_reasons_are_drawn_and_told_whichever_way_they_speak() -> None:
    contributions = {"V1": 0.1, "V2": -4.0, "V3": 2.0, "V4": 0.5}
    reasons = [
        {"feature": name, "contribution": value, "value": 1.0, "typical": 0.0}
        for name, value in contributions.items()
    ]
    record = TransactionRecord.model_validate(
        {
            "id": "<q>",
            "ce_time": datetime(2026, 11, 28, tzinfo=UTC),
            "version": "0123456789ab",
            "inputs": {"Amount": 1.0, "V1": 2.0},
            "probability": 0.5,
            "alert": "review",
            "label": None,
            "label_source": None,
            "reasons": reasons,
        }
    )
    drawn = record.why
    assert drawn is not None
    assert "&lt;q&gt;" in drawn
    assert [drawn.count(f"<title>{name} high") for name in contributions] == [0, 1, 1, 1]
    assert drawn.count('class="less"') == 1
    assert record.model_copy(update={"reasons": None}).why is None
