"""Paid providers from end to end: the demo against each emulated server, its books, and where no secret is."""

import ssl
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import httpx
import psycopg2
import pytest

from tests.acceptance.commands import Machine
from tests.emulated_openai import KEY, MODEL, emulated_openai

READABLE = (".json", ".log", ".out", ".err", ".txt", "")


def rows(url: str, query: str) -> list[tuple[Any, ...]]:
    """Ask a database of the machine."""
    connection = psycopg2.connect(url)
    try:
        with connection.cursor() as cursor:
            cursor.execute(query)
            return list(cursor.fetchall())
    finally:
        connection.close()


def places(machine: Machine, shown: str) -> dict[str, str]:
    """Give every place where a secret must not stand.

    Args:
        shown: What commands have printed so far.
    """
    endpoints = machine.endpoints()
    found = {"what commands print": shown + machine.run("config") + machine.run("status")}
    found["Dagster's database"] = "\n".join(
        dumped(endpoints["dagster_postgres_url"].replace("postgresql+psycopg2", "postgresql", 1))
    )
    found["our database"] = "\n".join(dumped(endpoints["database_url"]))
    for folder in ("logs", "dagster"):
        for file in (machine.data / folder).rglob("*"):
            if file.is_file() and file.suffix in READABLE:
                found[str(file)] = file.read_text(errors="replace")
    return found


def dumped(url: str) -> Iterator[str]:
    """Give every table of a database as text."""
    tables = "SELECT format('%I.%I', schemaname, tablename) FROM pg_tables WHERE schemaname = 'public'"
    for (table,) in rows(url, tables):
        for (line,) in rows(url, f"SELECT t::text FROM {table} t"):  # noqa: S608 - the database's own names
            yield line


def assert_described(name: str, tenant: dict[str, Any]) -> None:
    """See that every picture has a result, but for those that the policy skips in posts with many."""
    skipped = tenant["decisions"]
    assert set(skipped) <= {"skip: over_post_cap", "skip: small_in_crowded_post"}, name
    assert tenant["results"] == tenant["media_objects"] - sum(skipped.values()) > 0, name


@pytest.mark.timeout(900)
def test_demo_with_gigachat(machine: Machine) -> None:
    """What the policy lets through is described, books equal the bills, no file stays, and no secret is anywhere."""
    machine = replace(machine, settings={"VISION_PROVIDER": "gigachat"})
    machine.run("up", "--parts")
    output = machine.run("demo")
    endpoints = machine.endpoints()
    for name, tenant in machine.figures()["tenants"].items():
        assert_described(name, tenant)
    trust = ssl.create_default_context(cafile=endpoints["gigachat_ca_file"])
    server = endpoints["gigachat_base_url"].removesuffix("/api/v1")
    with httpx.Client(verify=trust, trust_env=False) as control:
        counts = control.get(f"{server}/emulator/counts").json()
    billed = {tenant: kinds["chat"]["total_tokens"] for tenant, kinds in counts["billed"].items()}
    books = "SELECT scope::text, used_tokens, held_tokens FROM budget_windows WHERE period = 'day' AND provider = ''"
    booked = {
        scope: used
        for scope, used, held in rows(endpoints["database_url"], books)
        if held == 0 and "ffff" not in scope[:4]
    }
    assert booked == billed
    assert len(billed) == 2
    assert counts["files"] == 0
    again = machine.run("demo")
    assert "0 puts, 0 analyses, 0 reused, 0 upserts" in again

    found = places(machine, output + again)
    assert "GigaChat-2-Max" in found["Dagster's database"], "it was looked at where the runs tell of themselves"
    for place, text in found.items():
        for secret in (endpoints["gigachat_credentials"], "Bearer "):
            assert secret not in text, f"{secret[:6]}… stands in {place}"


@pytest.mark.timeout(900)
def test_demo_with_an_api_like_openais(machine: Machine) -> None:
    """The same by a model whose name no key could hold: described, books equal bills, and no secret is seen."""
    with emulated_openai() as server:
        settings = {
            "VISION_PROVIDER": "openai",
            "OPENAI_BASE_URL": server.base_url,
            "OPENAI_API_KEY": KEY,
            "OPENAI_MODEL": MODEL,
        }
        machine = replace(machine, settings=settings)
        machine.run("up", "--parts")
        output = machine.run("demo")
        again = machine.run("demo")
        billed = Counter[str]()
        for tenant, tokens in server.bills:
            billed[tenant] += tokens
    for name, tenant in machine.figures()["tenants"].items():
        assert_described(name, tenant)
    assert "0 puts, 0 analyses, 0 reused, 0 upserts" in again
    books = "SELECT scope::text, used_tokens FROM budget_windows WHERE period = 'day' AND provider = ''"
    booked = {
        scope: used for scope, used in rows(machine.endpoints()["database_url"], books) if "ffff" not in scope[:4]
    }
    assert booked == billed
    assert len(billed) == 2
    found = places(machine, output + again)
    assert MODEL in found["Dagster's database"], "it was looked at where the runs tell of themselves"
    for place, text in found.items():
        for secret in (KEY, "Bearer "):
            assert secret not in text, f"{secret[:6]}… stands in {place}"
