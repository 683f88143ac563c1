"""Which changes share a message, and what a message says: to people, and to machines as Alertmanager's webhook does.

What is not here: when there is a change to tell of (`alerts.py`), and how a message goes out (`alert_delivery.py`).
"""

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, NamedTuple
from urllib.parse import quote
from uuid import UUID

from vision_assets.core.alerts import AlertKey, AlertRules, Kind, Source, Transition

NAMED_TENANTS = 5
"""Of a message about many."""

FIRING = "0001-01-01T00:00:00Z"
"""What Alertmanager writes as the end of what has not ended."""


class Topic(NamedTuple):
    """What transitions have in common that may share a message."""

    source: Source
    subject: str
    check: str
    kind: Kind


@dataclass(frozen=True, slots=True)
class Lately:
    """What people were told about a topic within the pause between messages about many.

    Attributes:
        grouped_at: When the last message about many was written; None: there was none.
        alone: Messages about one.
    """

    grouped_at: datetime | None = None
    alone: int = 0


@dataclass(frozen=True, slots=True)
class Planned:
    """A message to be written.

    Attributes:
        members: Places of its transitions among those that waited.
        grouped: They are too many for a message each, or those that were told lately are.
    """

    topic: Topic
    members: Sequence[int]
    grouped: bool


@dataclass(frozen=True, slots=True)
class Told:
    """A transition, as it is told.

    Attributes:
        tenant: Name of the partition's tenant; None: it has none, or is not known.
    """

    transition: Transition
    tenant: str | None = None

    @property
    def whose(self) -> str:
        """Name the tenant, or its id; empty without a partition."""
        return self.tenant or self.transition.key.partition


@dataclass(frozen=True, slots=True)
class AlertMessage:
    """One message, about one change or about many of the same kind.

    Attributes:
        id: Receivers may know it again by this.
        ui_url: Of Dagster's UI; None: no links.
    """

    id: UUID
    topic: Topic
    told: Sequence[Told]
    ui_url: str | None = None

    @property
    def is_firing(self) -> bool:
        """Tell whether something is wrong. What changes all the time counts as wrong until it has settled."""
        return self.topic.kind == "flapping" or self._worst is not None

    @property
    def _worst(self) -> str | None:
        severities = {one.transition.severity for one in self.told}
        return "error" if "error" in severities else "warn" if "warn" in severities else None

    def title(self) -> str:
        """Say in a line what it is about."""
        mark = "🟠" if self.topic.kind == "flapping" else {"error": "🔴", "warn": "🟠", None: "🟢"}[self._worst]
        return f"{mark} {self._verdict()}: {_what(self.topic)}{self._of_whom()}"

    def body(self) -> str:
        """Say what is wrong, what to do, and where to look."""
        first = self.told[0]
        lead = f"For example {first.whose}: " if len(self.told) > 1 else ""
        link = self.link()
        return f"{lead}{first.transition.message}" + (f"\n{link}" if link else "")

    def link(self) -> str | None:
        """Give the page of the UI that shows more."""
        return _link(self.ui_url, self.told[0].transition) if self.ui_url else None

    def _verdict(self) -> str:
        named = {"error": "Error", "warn": "Warning", None: "All is well"}[self._worst]
        began = min(one.transition.opened_at for one in self.told)
        return {
            "opened": named,
            "escalated": "Error, was a warning",
            "eased": "Warning, was an error",
            "reminder": f"{named}, still, since {began.astimezone(UTC):%Y-%m-%d %H:%M} UTC",
            "resolved": "Resolved",
            "flapping": "Changes all the time, no more word until it has settled",
            "settled": f"Settled. {named}",
        }[self.topic.kind]

    def _of_whom(self) -> str:
        if len(self.told) == 1:
            return f", {self.told[0].whose}" if self.told[0].whose else ""
        names = ", ".join(one.whose for one in self.told[:NAMED_TENANTS])
        more = len(self.told) - NAMED_TENANTS
        return f", {len(self.told)} tenants: {names}" + (f" and {more} more" if more > 0 else "")

    def alertmanager(self, place: int) -> dict[str, Any]:
        """Make the body that Alertmanager would send to a webhook (version 4) of one of the changes.

        Receivers may take a group's `resolved` as that of all its alerts, so each alert is a group of its own, with the
        same `groupKey` for ever, whatever else its message tells of.

        Args:
            place: Of the change in the message.
        """
        told = self.told[place]
        alone = replace(self, told=[told])
        one, group = told.transition, _group(told.transition.key)
        alert = {
            "status": "firing" if alone.is_firing else "resolved",
            # Receivers know by its labels what is resolved, so they stay what they were.
            "labels": group
            | {"severity": "critical" if one.failed_as == "error" else "warning"}
            | ({"tenant": told.tenant} if told.tenant else {}),
            "annotations": {"summary": alone.title(), "description": one.message, "transition": one.kind},
            "startsAt": _rfc3339(one.opened_at),
            "endsAt": FIRING if alone.is_firing else _rfc3339(one.at),
            "generatorURL": alone.link() or "",
            "fingerprint": fingerprint(one.key),
        }
        return {
            "version": "4",
            "groupKey": "{}:{" + ", ".join(f"{name}={json.dumps(value)}" for name, value in group.items()) + "}",
            "truncatedAlerts": 0,
            "status": alert["status"],
            "receiver": "vision_assets",
            "groupLabels": group,
            "commonLabels": alert["labels"],
            "commonAnnotations": alert["annotations"],
            "externalURL": self.ui_url or "",
            "alerts": [alert],
        }


def plan(
    waiting: Sequence[Transition], *, lately: Mapping[Topic, Lately], rules: AlertRules, now: datetime
) -> list[Planned]:
    """Decide which of the transitions that wait go out now, and which of them together.

    Many alike share a message, whether they come at once or one after the other within the pause. After such a message
    the next ones about the same wait a while, to share one as well; nobody hears of a later change of a key before the
    earlier one.

    Args:
        waiting: In their order.
        lately: By topic; one that is not there has told nothing.
        now: Aware UTC.
    """
    waves: list[dict[Topic, list[int]]] = []  # the first waiting transition of each key, the second one, and so on
    seen: Counter[AlertKey] = Counter()
    for place, one in enumerate(waiting):
        wave = seen[one.key]
        seen[one.key] += 1
        if wave == len(waves):
            waves.append({})
        waves[wave].setdefault(Topic(*one.key[:3], one.kind), []).append(place)
    messages = []
    held: set[AlertKey] = set()
    for groups in waves:
        for topic, places in groups.items():
            told = lately.get(topic, Lately())
            if told.grouped_at is not None and now - told.grouped_at < rules.group_pause:
                held |= {waiting[place].key for place in places}
            free = [place for place in places if waiting[place].key not in held]
            if free and len(free) + told.alone > rules.group_above:
                messages.append(Planned(topic, free, grouped=True))
            else:
                messages += [Planned(topic, [place], grouped=False) for place in free]
    return messages


def fingerprint(key: AlertKey) -> str:
    """Tell an alert from others for ever, whatever its severity and the tenant's name: 16 hexadecimal digits."""
    return hashlib.sha256("\0".join(key).encode()).hexdigest()[:16]


def _group(key: AlertKey) -> dict[str, str]:
    """Give the labels that tell an alert from others."""
    group = {"alertname": key.check or "run_failure", "asset": key.subject, "source": key.source}
    return group | ({"tenant_id": key.partition} if key.partition else {})


def _what(topic: Topic) -> str:
    return f"{topic.check} of {topic.subject}" if topic.source == "check" else f"runs of {topic.subject}"


def _link(ui_url: str, one: Transition) -> str:
    base = ui_url.rstrip("/")
    if one.key.source == "check":
        return f"{base}/assets/{quote(one.key.subject)}?view=checks&checkDetail={quote(one.key.check, safe='')}"
    return f"{base}/runs/{quote(one.run_id, safe='')}"


def _rfc3339(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")
