"""People hear of a quota once at each step: up over 85 %, over 93 %, and back, with Dagster's daemon running."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.acceptance.commands import Machine
from tests.alert_receivers import CHAT, EmulatedTelegram, WebhookReceiver, emulated_telegram, webhook_receiver
from tests.graphql import Dagster
from tests.pictures import encoded, photo
from tests.world import ROOMY
from vision_assets.clients.postgres import Database
from vision_assets.clients.postgres.posts import find_tenant
from vision_assets.clients.postgres.storage import PostgresStorage
from vision_assets.clients.s3 import S3Bucket
from vision_assets.core.guarded_store import QuotaGuardedStore
from vision_assets.core.tenants import Tenant
from vision_assets.devstack.telegram import TOKEN

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

AWAITED_SECONDS = 300
LIMIT_BYTES = 1_000_000


@pytest.fixture
def telegram() -> Iterator[EmulatedTelegram]:
    """The emulated Bot API."""
    with emulated_telegram() as server:
        yield server


@pytest.fixture
def webhook() -> Iterator[WebhookReceiver]:
    """A webhook."""
    with webhook_receiver() as receiver:
        yield receiver


def through_the_guard(machine: Machine, act: Callable[[QuotaGuardedStore, Tenant], Awaitable[None]]) -> None:
    """Do something to the objects of the tenant Alpha, as any writer does."""
    at = machine.endpoints()

    async def main() -> None:
        bucket = S3Bucket.connect(
            at["s3_bucket"],
            endpoint_url=at["s3_endpoint_url"],
            access_key_id=at["aws_access_key_id"],
            secret_access_key=at["aws_secret_access_key"],
        )
        async with Database.open(at["database_url"]) as database:
            guard = QuotaGuardedStore(store=bucket, ledger=PostgresStorage(database), limits=ROOMY)
            await act(guard, await find_tenant(database, "Alpha"))

    asyncio.run(main())


def put(machine: Machine, name: str, size: int) -> None:
    """Put a crawled page of a size."""

    async def act(guard: QuotaGuardedStore, tenant: Tenant) -> None:
        key = f"crawl/{tenant.id}/{name}"
        await guard.put(tenant.id, key, bytes(size), content_type="crawl", mime="text/html")

    through_the_guard(machine, act)


def delete(machine: Machine, *names: str) -> None:
    """Delete crawled pages."""

    async def act(guard: QuotaGuardedStore, tenant: Tenant) -> None:
        await guard.delete(tenant.id, [(f"crawl/{tenant.id}/{name}", "crawl") for name in names])

    through_the_guard(machine, act)


def tenant_id(machine: Machine) -> str:
    """Tell the partition of the tenant Alpha."""

    async def main() -> str:
        async with Database.open(machine.endpoints()["database_url"]) as database:
            return str((await find_tenant(database, "Alpha")).id)

    return asyncio.run(main())


def check(dagster: Dagster, partition: str) -> None:
    """Hold the tenant's books against S3, with the checks of its levels."""
    [run] = dagster.wait_for_runs([dagster.run("tenant_pipeline", ["tenant_storage_usage"], partition)], seconds=180)
    assert run.status == "SUCCESS"


def until(arrived: Callable[[], int], number: int) -> None:
    """Wait until so many messages arrived."""
    deadline = time.monotonic() + AWAITED_SECONDS
    while arrived() < number:
        assert time.monotonic() < deadline, f"{number} messages never arrived"
        time.sleep(1)


def test_a_quota_that_runs_full_and_gets_room_again(
    machine: Machine, telegram: EmulatedTelegram, webhook: WebhookReceiver, tmp_path: Path
) -> None:
    """A warning, an error, and all is well: in this order and once each, over both channels."""
    machine = replace(
        machine,
        settings={
            "TELEGRAM_BOT_TOKEN": TOKEN,
            "TELEGRAM_API_URL": telegram.url,
            "ALERT_TELEGRAM_CHAT_ID": CHAT,
            "ALERT_WEBHOOK_URL": webhook.secret_url.get_secret_value(),
        },
    )
    (tmp_path / "1.jpg").write_bytes(encoded(photo(160, 120)))
    with machine.up() as up:
        machine.run("import-folder", str(tmp_path), "--tenant", "Alpha")
        machine.run("materialize", "--tenant", "Alpha")
        machine.run("quota", "set", "--tenant", "Alpha", "--limit", str(LIMIT_BYTES))
        dagster, partition = Dagster(up.ui_url), tenant_id(machine)
        for number, name, size in ((1, "page", 860_000), (2, "another", 80_000)):
            put(machine, name, size)
            for _ in range(2):  # a level that stays what it is is told once
                check(dagster, partition)
            until(lambda: min(len(telegram.messages()), len(webhook.accepted())), number)
        delete(machine, "page", "another")
        check(dagster, partition)
        until(lambda: min(len(telegram.messages()), len(webhook.accepted())), 3)
        shown = machine.run("alerts", "show")
    what = "quota_below_limit of tenant_storage_usage, Alpha"
    assert telegram.titles() == [f"🟠 Warning: {what}", f"🔴 Error, was a warning: {what}", f"🟢 Resolved: {what}"]
    first = telegram.messages()[0]["text"]
    assert "of 1,000,000 bytes" in first
    assert 'vision-assets quota set --tenant "Alpha"' in first
    assert f"{up.ui_url}/assets/tenant_storage_usage?view=checks&checkDetail=quota_below_limit" in first
    assert webhook.accepted() == [("firing", ["opened"]), ("firing", ["escalated"]), ("resolved", ["resolved"])]
    alerts = [request["alerts"][0] for request in webhook.requests]
    assert [alert["labels"]["severity"] for alert in alerts] == ["warning", "critical", "critical"]
    assert len({alert["fingerprint"] for alert in alerts}) == 1
    assert len(webhook.requests) == 3
    assert "Nothing is wrong" in shown
