"""Which changes share a message, what it says, and how it is cut."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vision_assets.clients.telegram_bot import split, units
from vision_assets.core.alert_messages import FIRING, AlertMessage, Lately, Told, Topic, fingerprint, plan
from vision_assets.core.alerts import AlertKey, AlertRules, Kind, Transition
from vision_assets.core.levels import Severity

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
RULES = AlertRules(group_above=3, group_pause=timedelta(minutes=10))
MESSAGE_ID = UUID(int=7)


def change(tenant: str, kind: Kind = "opened", severity: Severity | None = "warn", check: str = "quota") -> Transition:
    """A change of a check of one tenant."""
    key = AlertKey("check", "tenant_storage_usage", check, tenant)
    later = NOON + timedelta(hours=2)
    return Transition(
        key, kind, f"{kind} {tenant}", severity, severity or "warn", f"{tenant} is full.", "run", NOON, later
    )


def planned(waiting: Sequence[Transition], lately: dict[Topic, Lately] | None = None) -> list[tuple[str, list[int]]]:
    """Plan messages: kind and members of each."""
    messages = plan(waiting, lately=lately or {}, rules=RULES, now=NOON)
    return [(message.topic.kind, list(message.members)) for message in messages]


def message(*changes: Transition, ui_url: str | None = None, tenant: str | None = None) -> AlertMessage:
    """A message about changes of one kind."""
    topic = Topic(*changes[0].key[:3], changes[0].kind)
    return AlertMessage(
        MESSAGE_ID, topic, [Told(one, tenant or f"Tenant {one.key.partition}") for one in changes], ui_url
    )


def test_few_have_a_message_each() -> None:
    """As many as may be, each by itself, in their order."""
    assert planned([change(name) for name in "abc"]) == [("opened", [0]), ("opened", [1]), ("opened", [2])]


def test_many_share_one() -> None:
    """One more than may be: one message of all, whatever the severity; other checks and kinds are apart."""
    waiting = [change("a"), change("x", "resolved", None), change("b", severity="error"), change("c"), change("d")]
    waiting.append(change("a", check="budget"))
    assert planned(waiting) == [("opened", [0, 2, 3, 4]), ("resolved", [1]), ("opened", [5])]


def test_after_a_message_about_many_the_next_wait() -> None:
    """Until the pause is over, to share one; other kinds go out, unless their own first change waits."""
    topic = Topic("check", "tenant_storage_usage", "quota", "opened")
    waiting = [change("a"), change("b"), change("a", "resolved", None), change("c", "resolved", None)]
    assert planned(waiting, {topic: Lately(NOON - timedelta(minutes=9))}) == [("resolved", [3])]
    assert planned(waiting, {topic: Lately(NOON - timedelta(minutes=10))}) == [
        *(("opened", [0]), ("opened", [1]), ("resolved", [3])),
        ("resolved", [2]),
    ]


def test_those_that_were_told_lately_count_too() -> None:
    """A storm that comes in small gusts: once there are too many within the pause, the rest share a message."""
    topic = Topic("check", "tenant_storage_usage", "quota", "opened")
    waiting = [change("a"), change("b"), change("c", "resolved", None)]
    assert planned(waiting, {topic: Lately(alone=1)}) == [("opened", [0]), ("opened", [1]), ("resolved", [2])]
    assert planned(waiting, {topic: Lately(alone=2)}) == [("opened", [0, 1]), ("resolved", [2])]
    assert planned([change("x", "resolved", None)], {topic: Lately(alone=9)}) == [("resolved", [0])]


@given(st.lists(st.tuples(st.sampled_from("abcdefgh"), st.booleans()), max_size=40), st.booleans())
def test_everything_goes_out_once_and_no_key_overtakes_itself(changes: list[tuple[str, bool]], holding: bool) -> None:
    """Without a pause all go out; with one, what is held back of a key is its end, never its beginning."""
    waiting = [change(name, "opened" if bad else "resolved", "warn" if bad else None) for name, bad in changes]
    topic = Topic("check", "tenant_storage_usage", "quota", "opened")
    sent = [place for _, members in planned(waiting, {topic: Lately(NOON)} if holding else {}) for place in members]
    assert len(sent) == len(set(sent))
    for name in "abcdefgh":
        of_key = [place for place, one in enumerate(waiting) if one.key.partition == name]
        went = [place for place in sent if place in of_key]
        assert went == of_key[: len(went)]
        assert holding or went == of_key


@pytest.mark.parametrize(
    ("kind", "severity", "title"),
    [
        ("opened", "warn", "🟠 Warning: quota of tenant_storage_usage, Tenant a"),
        ("opened", "error", "🔴 Error: quota of tenant_storage_usage, Tenant a"),
        ("escalated", "error", "🔴 Error, was a warning: quota of tenant_storage_usage, Tenant a"),
        ("eased", "warn", "🟠 Warning, was an error: quota of tenant_storage_usage, Tenant a"),
        ("reminder", "error", "🔴 Error, still, since 2026-03-01 12:00 UTC: quota of tenant_storage_usage, Tenant a"),
        ("resolved", None, "🟢 Resolved: quota of tenant_storage_usage, Tenant a"),
        (
            *("flapping", None),
            "🟠 Changes all the time, no more word until it has settled: quota of tenant_storage_usage, Tenant a",
        ),
        ("settled", "error", "🔴 Settled. Error: quota of tenant_storage_usage, Tenant a"),
        ("settled", None, "🟢 Settled. All is well: quota of tenant_storage_usage, Tenant a"),
    ],
)
def test_titles(kind: Kind, severity: Severity | None, title: str) -> None:
    """A line says what it is, of what, and whose."""
    told = message(change("a", kind, severity))
    assert told.title() == title
    assert told.body() == "a is full."


def test_a_message_about_many_names_some() -> None:
    """The number, the first names, the worst severity, and one text as an example."""
    told = message(*[change(name, severity="error" if name == "g" else "warn") for name in "abcdefg"])
    assert told.title() == (
        "🔴 Error: quota of tenant_storage_usage, 7 tenants: "
        "Tenant a, Tenant b, Tenant c, Tenant d, Tenant e and 2 more"
    )
    assert told.body() == "For example Tenant a: a is full."


def test_links() -> None:
    """A check links to its page, a run to itself; without a URL of the UI there is no link."""
    key = AlertKey("run", "vision_results", "", "a")
    run = Transition(key, "opened", "e", "error", "error", "It failed.", "5f-7", NOON, NOON)
    check = message(change("a"), ui_url="https://dagster.example/")
    assert check.link() == "https://dagster.example/assets/tenant_storage_usage?view=checks&checkDetail=quota"
    assert check.body().endswith(f"\n{check.link()}")
    assert message(run, ui_url="https://dagster.example").link() == "https://dagster.example/runs/5f-7"
    assert message(run).link() is None
    assert message(run).title() == "🔴 Error: runs of vision_results, Tenant a"


def test_what_alertmanager_would_send() -> None:
    """Version 4: of each change by itself, its status, labels, times and fingerprint."""
    both = message(change("a"), change("b", severity="error"), ui_url="http://ui")
    first, second = both.alertmanager(0), both.alertmanager(1)
    group = {"alertname": "quota", "asset": "tenant_storage_usage", "source": "check", "tenant_id": "a"}
    labels = {**group, "severity": "warning", "tenant": "Tenant a"}
    annotations = {
        "summary": "🟠 Warning: quota of tenant_storage_usage, Tenant a",
        "description": "a is full.",
        "transition": "opened",
    }
    assert first == {
        "version": "4",
        "groupKey": '{}:{alertname="quota", asset="tenant_storage_usage", source="check", tenant_id="a"}',
        "truncatedAlerts": 0,
        "status": "firing",
        "receiver": "vision_assets",
        "groupLabels": group,
        "commonLabels": labels,
        "commonAnnotations": annotations,
        "externalURL": "http://ui",
        "alerts": [
            {
                "status": "firing",
                "labels": labels,
                "annotations": annotations,
                "startsAt": "2026-03-01T12:00:00Z",
                "endsAt": FIRING,
                "generatorURL": "http://ui/assets/tenant_storage_usage?view=checks&checkDetail=quota",
                "fingerprint": fingerprint(change("a").key),
            }
        ],
    }
    assert second["alerts"][0]["labels"]["severity"] == "critical"
    resolved = message(change("a", "resolved", None)).alertmanager(0)
    assert resolved["status"] == "resolved"
    [alert] = resolved["alerts"]
    assert (alert["status"], alert["endsAt"]) == ("resolved", "2026-03-01T14:00:00Z")
    assert alert["labels"] == labels
    assert alert["fingerprint"] == first["alerts"][0]["fingerprint"] != second["alerts"][0]["fingerprint"]


def test_what_resolves_one_tenant_leaves_the_others_open() -> None:
    """For a receiver that takes a group's status for all of it: a group is one alert, told alone or in company."""
    open_groups: set[str] = set()
    for told in (
        message(*[change(name) for name in "abc"]),
        message(change("a", "escalated", "error"), tenant="Renamed"),
        message(change("a", "resolved", None), change("b", "resolved", None)),
    ):
        for place in range(len(told.told)):
            body = told.alertmanager(place)
            (open_groups.add if body["status"] == "firing" else open_groups.remove)(body["groupKey"])
    [left] = open_groups
    assert 'tenant_id="c"' in left


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=300), st.integers(2, 50))
def test_a_long_text_is_cut_and_nothing_is_lost(text: str, limit: int) -> None:
    """Every piece fits, and but for the blanks at the cuts all of the text is there, in its order."""
    pieces = split(text, limit=limit)
    assert all(units(piece) <= limit for piece in pieces)
    assert "".join("".join(pieces).split()) == "".join(text.split())


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("one\ntwo three", ["one", "two", "three"]),
        ("one two", ["one", "two"]),
        ("abcdefgh", ["abcdef", "gh"]),
        ("😀😀😀😀", ["😀😀😀", "😀"]),
        ("short", ["short"]),
        ("", [""]),
    ],
)
def test_it_is_cut_at_lines_and_words(text: str, pieces: list[str]) -> None:
    """At a line's end, else at a word's, else anywhere but inside a character."""
    assert list(split(text, limit=6)) == pieces
