"""Dagster with a real log on Postgres, assets and jobs that fail when they are told to, and the sensors that look.

What is not here: what people must be told of it (`defs/test_alerts.py`, `defs/test_failed_runs.py`).
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

import dagster as dg
import psycopg2

from vision_assets.clients.postgres import Database
from vision_assets.clients.postgres.deliveries import MessageReport, recent_messages
from vision_assets.clients.postgres.posts import ensure_tenant
from vision_assets.clients.postgres.turns import PostgresLine
from vision_assets.defs.failures import tell_failed
from vision_assets.defs.new_posts import NEW_POSTS
from vision_assets.defs.partitions import TENANTS
from vision_assets.resources import AlertsResource, PostgresResource

BAD: set[str] = set()
"""Partitions for which the assets below fail."""

CHECK = dg.AssetCheckSpec("is_good", asset="stored", partitions_def=TENANTS)


@dg.multi_asset(
    name="stored",
    specs=[dg.AssetSpec("stored")],
    can_subset=True,
    partitions_def=TENANTS,
    backfill_policy=dg.BackfillPolicy.single_run(),
    check_specs=[CHECK],
)
def stored(context: dg.AssetExecutionContext) -> Iterator[dg.AssetMaterialization | dg.AssetCheckEvaluation]:
    """Materializes and checks each partition by itself; those that fail are named in the end, as the project does."""
    for key in context.partition_keys:
        passed = key not in BAD
        yield dg.AssetCheckEvaluation(
            asset_key=dg.AssetKey("stored"),
            check_name="is_good",
            passed=passed,
            partition=key,
            description=f"{key} looked at",
        )
        if passed:
            yield dg.AssetMaterialization("stored", partition=key)
    if bad := sorted(BAD & set(context.partition_keys)):
        raise dg.Failure(
            f"{len(bad)} tenants failed: top the account up.",
            metadata={"failed_partitions": dg.MetadataValue.json(bad)},
            allow_retries=False,
        )


@dg.asset(deps=["stored"], partitions_def=TENANTS, backfill_policy=dg.BackfillPolicy.single_run())
def later(context: dg.AssetExecutionContext) -> None:
    """Comes after it, and has bugs."""
    if BAD & set(context.partition_keys):
        raise ZeroDivisionError("nobody thought of it")


@dg.op
def tidy() -> None:
    """Fails as long as anything does."""
    if BAD:
        raise dg.Failure("There is no room.", allow_retries=False)


@dg.job(executor_def=dg.in_process_executor)
def tidying() -> None:
    """Makes no asset."""
    tidy()


@dataclass(frozen=True)
class Turn:
    """What a run of `new_posts` did for a tenant, as its turns tell it."""

    name: str
    made: Sequence[str] = ()
    broken: Sequence[str] = ()


TURNS: list[tuple[str, Turn]] = []
"""Partitions and turns that the job below takes."""

LINE: set[str] = set()
"""What is wrong with the line, after the turns."""


@dg.op(out=dg.Out(dg.Nothing))
def take_turns(context: dg.OpExecutionContext) -> Iterator[dg.AssetMaterialization | dg.Output[None]]:
    """Tells of each turn, and in the end of the tenants whose last turn was broken, as the project does."""
    broken: dict[str, str] = {}
    for key, turn in TURNS:
        for asset in turn.made:
            yield dg.AssetMaterialization(asset, partition=key)
        tell_failed(context, [dg.AssetKey(asset) for asset in turn.broken], key)
        broken.pop(key, None)
        if turn.broken:
            broken[key] = f"{turn.name} has no {' and no '.join(turn.broken)}."
    if LINE:
        raise ConnectionError(f"The line is {' and '.join(LINE)}.")
    if broken:
        raise dg.Failure(
            f"{len(broken)} tenants failed for good.",
            metadata={
                "failed_partitions": dg.MetadataValue.json(list(broken)),
                "failures": dg.MetadataValue.json(broken),
            },
            allow_retries=False,
        )
    yield dg.Output(None)


@dg.job(name=NEW_POSTS, executor_def=dg.in_process_executor)
def turns() -> None:
    """Stands for the project's job of this name."""
    take_turns()


DEFS = dg.Definitions(
    assets=[stored, later],
    jobs=[tidying, turns, dg.define_asset_job("both", selection=["stored", "later"])],
    executor=dg.in_process_executor,
)


@dataclass
class Office:
    """Dagster with a log of its own, the project's database with tenants, and the sensors' cursors."""

    instance: dg.DagsterInstance
    log_url: str
    database_url: str
    tenants: dict[str, str]
    alerts: AlertsResource = field(default_factory=AlertsResource)
    cursors: dict[str, str | None] = field(default_factory=dict)

    def tick(self, sensor: dg.SensorDefinition, *, database_url: str | None = None) -> str:
        """Let a sensor look once, and give what it says."""
        postgres = PostgresResource(database_url=database_url or self.database_url)
        with dg.build_sensor_context(
            instance=self.instance,
            cursor=self.cursors.get(sensor.name),
            resources={"postgres": postgres, "alerts": self.alerts},
        ) as context:
            found = sensor(context)
            assert isinstance(found, dg.SkipReason)
            self.cursors[sensor.name] = context.cursor
        return str(found.skip_message)

    def run(self, job: str, *tenants: str, bad: tuple[str, ...] = (), tags: dict[str, str] | None = None) -> str:
        """Run a job, or an asset alone, for one tenant or from one to another, by name; give the run's id."""
        BAD.clear()
        BAD.update(self.tenants.get(name, name) for name in bad)
        keys = [self.tenants[name] for name in tenants]
        part: dict[str, Any] = {"tags": tags or {}}
        if len(keys) == 1:
            part["partition_key"] = keys[0]
        elif keys:
            part["tags"] |= {
                "dagster/asset_partition_range_start": keys[0],
                "dagster/asset_partition_range_end": keys[-1],
            }
        definition = DEFS.resolve_job_def(job if job in ("both", "tidying") else "__ASSET_JOB")
        if job in ("stored", "later"):
            part["asset_selection"] = [dg.AssetKey(job)]
        result = definition.execute_in_process(instance=self.instance, raise_on_error=False, **part)
        assert result.success is not bool(bad)
        return result.run_id

    def take_turns(self, *taken: Turn, line: Sequence[str] = ()) -> str:
        """Run `new_posts` with these turns, and perhaps an error of the line in the end; give the run's id."""
        LINE.clear()
        LINE.update(line)
        TURNS[:] = [(self.tenants[turn.name], turn) for turn in taken]
        job = DEFS.resolve_job_def(NEW_POSTS)
        result = job.execute_in_process(instance=self.instance, raise_on_error=False)
        return result.run_id

    def end_turn(self, name: str, error: str | None = None) -> None:
        """Let a tenant have something to do, and a turn in the line that ends well, or with an error."""

        async def turn(opened: Database) -> None:
            await opened.pool.execute("INSERT INTO tenant_changes (tenant_id) VALUES ($1)", UUID(self.tenants[name]))
            line = PostgresLine(opened)
            taken = await line.claim("a run", lease=timedelta(minutes=1))
            assert taken
            assert taken.tenant.name == name
            if error is None:
                await line.end(taken)
            else:
                await line.end_failed(taken, error, rest=timedelta())

        self.ask(turn)

    def age_failures(self, hours: int) -> None:
        """Let the log say that runs failed earlier than they did; negative: later."""
        self.execute(
            f"UPDATE event_logs SET timestamp = timestamp - interval '{hours} hours', event = jsonb_set(event::jsonb,"  # noqa: S608
            f" '{{timestamp}}', to_jsonb((event::jsonb ->> 'timestamp')::float8 - {hours * 3600}))::text"
            " WHERE dagster_event_type = 'PIPELINE_FAILURE'"
        )

    def execute(self, statement: str) -> None:
        """Change Dagster's log behind its back."""
        with closing(psycopg2.connect(self.log_url)) as connection, connection, connection.cursor() as cursor:
            cursor.execute(statement)

    def ask(self, work: Callable[[Database], Awaitable[Any]]) -> Any:
        """Ask the project's database."""

        async def main() -> Any:
            async with Database.open(self.database_url, max_size=1) as database:
                return await work(database)

        return asyncio.run(main())

    def reports(self) -> list[MessageReport]:
        """List the messages, the oldest first."""
        found: list[MessageReport] = self.ask(lambda database: recent_messages(database, limit=100))
        return found[::-1]

    def told(self) -> list[tuple[str, str, list[str]]]:
        """List the messages, the oldest first: kind, of what, whose."""
        return [
            (report.message.topic.kind, report.message.topic.subject, [one.whose for one in report.message.told])
            for report in self.reports()
        ]


@contextmanager
def opened_office(log_url: str, database_url: str, **settings: Any) -> Iterator[Office]:
    """Open an office with three tenants.

    Args:
        log_url: An empty database for Dagster's log.
        settings: More of Dagster's instance.
    """

    async def make(opened: Database) -> dict[str, str]:
        return {name: str((await ensure_tenant(opened, name)).id) for name in ("Alpha", "Beta", "Gamma")}

    sqlalchemy_url = urlsplit(log_url)._replace(scheme="postgresql+psycopg2").geturl()
    overrides = {"storage": {"postgres": {"postgres_url": sqlalchemy_url}}, **settings}
    with dg.instance_for_test(overrides=overrides) as instance:
        made = Office(instance, log_url, database_url, {})
        made.tenants = made.ask(make)
        instance.add_dynamic_partitions(str(TENANTS.name), list(made.tenants.values()))
        yield made
