"""`new_posts`: whatever tenants have something to do, each taken through the chain as far as its share goes.

A run takes many tenants, some at once, since it costs seconds itself; each materialization names its partition.
What is not here: when it runs (`sensors.py`), and who comes next (`core/crew.py`).
"""

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field

import dagster as dg

from vision_assets.core.crew import Crew
from vision_assets.core.errors import EXAMPLES
from vision_assets.core.recent_media import RecentMedia
from vision_assets.core.turns import Ended, Line
from vision_assets.defs.chain import Chained, Link, chained
from vision_assets.defs.failures import tell_failed, translated
from vision_assets.defs.jobs import HAS_AN_END
from vision_assets.defs.media import MEDIA_OBJECTS, PHASH_INDEX, MediaStage
from vision_assets.defs.post_enrichment import POST_ENRICHMENT, EnrichmentStage
from vision_assets.defs.qdrant_collection import QDRANT_COLLECTION, IndexStage
from vision_assets.defs.steps import Stage
from vision_assets.defs.untold import Untold
from vision_assets.defs.vision_results import VISION_RESULTS, VisionStage
from vision_assets.logs import bound_to_run
from vision_assets.resources import (
    Ledgers,
    MediaSourceResource,
    NewPostsResource,
    PostgresResource,
    QdrantResource,
    S3Resource,
    StorageQuotaResource,
    TokenBudgetResource,
    VisionPolicyResource,
    VisionProviderResource,
)

NEW_POSTS = "new_posts"


@dg.op(
    out=dg.Out(dg.Nothing),
    description="Takes tenants out of the line, some at once, and each through media, vision, enrichment and search.",
)
def take_turns(
    context: dg.OpExecutionContext,
    *,
    postgres: PostgresResource,
    s3: S3Resource,
    storage_quota: StorageQuotaResource,
    token_budget: TokenBudgetResource,
    media_source: MediaSourceResource,
    vision_policy: VisionPolicyResource,
    vision_provider: VisionProviderResource,
    qdrant: QdrantResource,
    new_posts_limits: NewPostsResource,
) -> Iterator[dg.AssetMaterialization | dg.AssetCheckEvaluation | dg.Output[None]]:
    """Work on tenants until the run's time is over, or nobody waits."""
    store = RecentMedia(s3.connect())
    share, posts = new_posts_limits.pictures_a_turn, new_posts_limits.posts_a_turn
    stages: Sequence[tuple[Sequence[dg.AssetKey], Stage]] = (
        (
            (MEDIA_OBJECTS, PHASH_INDEX),
            MediaStage(
                store=store,
                bucket=s3.bucket,
                storage_quota=storage_quota,
                media_source=media_source,
                log=context.log,
                share=share,
            ),
        ),
        (
            (VISION_RESULTS,),
            VisionStage(
                store=store,
                bucket=s3.bucket,
                storage_quota=storage_quota,
                token_budget=token_budget,
                vision_policy=vision_policy,
                vision_provider=vision_provider,
                log=context.log,
                share=share,
            ),
        ),
        (
            (POST_ENRICHMENT,),
            EnrichmentStage(
                store=store,
                bucket=s3.bucket,
                storage_quota=storage_quota,
                vision_policy=vision_policy,
                vision_provider=vision_provider,
                share=posts,
            ),
        ),
        ((QDRANT_COLLECTION,), IndexStage(qdrant=qdrant, log=context.log, share=posts)),
    )
    opened = AsyncExitStack()

    async def enter() -> tuple[Line, Crew[Chained]]:
        opened.enter_context(bound_to_run(trace_id=context.run_id, asset=NEW_POSTS))
        ledgers: Ledgers = await opened.enter_async_context(postgres.open())
        links = [Link(assets, await opened.enter_async_context(stage.open(ledgers))) for assets, stage in stages]
        crew = Crew.at_work(
            context.run_id,
            ledgers.line,
            chained(links),
            at_once=new_posts_limits.tenants_at_once,
            run_seconds=new_posts_limits.run_seconds,
            idle_seconds=new_posts_limits.idle_seconds,
        )
        return ledgers.line, await opened.enter_async_context(crew)

    done, untold = _Tally(), Untold([assets[0] for assets, _ in stages])
    try:
        with translated(), asyncio.Runner() as runner:
            try:
                line, crew = runner.run(enter())
                # The next call ends these turns in the line: Dagster has their events by then, or the line knows.
                while ended := runner.run(crew.ended(untold=untold.tenants)):
                    for one in ended:
                        if red := _seen(context, done, untold, one):
                            # What went well before must not come after it.
                            yield from runner.run(untold.events([one.turn.tenant.id]))
                            tell_failed(context, red, str(one.turn.tenant.id))
                    due = untold.due()
                    yield from runner.run(untold.events(due))
                    if owed := set(due) - {one.turn.tenant.id for one in ended}:
                        runner.run(line.told(context.run_id, owed))
                rest = list(untold.tenants)
                yield from runner.run(untold.events(rest))
                runner.run(line.told(context.run_id, rest))
            finally:
                runner.run(opened.aclose())
    except dg.Failure as failure:
        raise done.failure(str(failure.description)) from failure
    if done.broken:
        raise done.failure("The others are done.")
    yield dg.Output(None, metadata=done.metadata())


def _seen(
    context: dg.OpExecutionContext, done: "_Tally", untold: Untold, ended: Ended[Chained]
) -> Sequence[dg.AssetKey]:
    """Take in a turn: all assets are to be told of, where the turns before it may have ended without telling.

    Returns:
        The assets that are to be red.
    """
    turn = ended.turn
    if ended.error is not None:
        context.log.warning(f"{turn.tenant.name}: {ended.error}")
    if ended.report is not None:
        may_be_untold = turn.attempts > 1 or turn.is_untold
        untold.add(turn.tenant.id, ended.report, with_all=may_be_untold and ended.error is None)
    done.add(ended)
    return _to_be_red(ended)


def _to_be_red(ended: Ended[Chained]) -> Sequence[dg.AssetKey]:
    """Tell which assets people are to hear of: what will not pass by itself, or has not for many turns."""
    if ended.report is None:
        return ()
    return ended.report.failed if ended.is_stuck else ended.report.broken


@dataclass(slots=True)
class _Tally:
    """What a run did.

    Attributes:
        broken: Tenants with assets that people are to hear of → why.
    """

    turns: int = 0
    failed: int = 0
    went_on: int = 0
    seconds: float = 0
    tenants: set[str] = field(default_factory=set)
    broken: dict[str, str] = field(default_factory=dict)

    def add(self, ended: Ended[Chained]) -> None:
        key = str(ended.turn.tenant.id)
        self.turns += 1
        self.failed += ended.error is not None
        self.went_on += ended.has_more
        self.seconds += ended.seconds
        self.tenants.add(key)
        if ended.error is None:
            self.broken.pop(key, None)
        elif _to_be_red(ended):
            self.broken[key] = ended.error

    def metadata(self) -> dict[str, int | float]:
        return {
            "turns": self.turns,
            "tenants": len(self.tenants),
            "turns_failed": self.failed,
            "turns_with_more_to_do": self.went_on,
            "seconds_a_turn": round(self.seconds / max(self.turns, 1), 3),
        }

    def failure(self, why: str) -> dg.Failure:
        """Make the run's failure; by that the partitions of the tenants that are broken are red."""
        broken = list(self.broken.items())
        told = (
            f"{len(broken)} of {len(self.tenants)} tenants failed for good, or too often, and rest. " if broken else ""
        )
        first = f" First: {'; '.join(f'{key}: {text}' for key, text in broken[:EXAMPLES])}" if broken else ""
        return dg.Failure(
            description=f"{told}{why}{first}",
            metadata={
                "failed_partitions": dg.MetadataValue.json(list(self.broken)),
                "failures": dg.MetadataValue.json(self.broken),
                **self.metadata(),
            },
            allow_retries=False,
        )


@dg.job(
    name=NEW_POSTS,
    executor_def=dg.in_process_executor,
    # The sensor of the same name starts the next run, whatever became of this one.
    tags={"dagster/priority": "10", "dagster/max_retries": "0", **HAS_AN_END},
    description="New and changed posts of whatever tenants have some, within seconds.",
)
def new_posts_job() -> None:
    """Take tenants with something to do through the chain."""
    take_turns()
