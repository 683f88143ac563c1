"""What a stage tells of one tenant, and the events of Dagster that it becomes. What is not here: the stages' work."""

from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, Protocol, Self, TypeAlias, TypeVar

import dagster as dg

from vision_assets.core.findings import Finding
from vision_assets.core.tenants import Tenant
from vision_assets.core.turns import NO_POST
from vision_assets.defs.failures import raise_if_any

Metadata: TypeAlias = Mapping[str, str | int | float | dg.MetadataValue]
Event: TypeAlias = dg.MaterializeResult[None] | dg.AssetMaterialization | dg.AssetCheckEvaluation | dg.Output[None]


@dataclass(frozen=True, slots=True)
class Checked:
    """The outcome of one asset check."""

    name: str
    finding: Finding
    metadata: Mapping[str, dg.MetadataValue]

    @property
    def severity(self) -> dg.AssetCheckSeverity:
        """How much it matters; a check that passed has one all the same."""
        return dg.AssetCheckSeverity.ERROR if self.finding.severity == "error" else dg.AssetCheckSeverity.WARN


@dataclass(frozen=True, slots=True)
class Made:
    """One asset's part of an outcome."""

    asset: dg.AssetKey
    metadata: Metadata
    checks: Sequence[Checked] = ()


class Summed(Protocol):
    """A report of a stage that takes several turns with a tenant."""

    def __add__(self, later: Self, /) -> Self:
        """Tell of both as of one."""
        ...


Report = TypeVar("Report")


@dataclass(frozen=True, slots=True)
class Outcome(Generic[Report]):
    """What a stage did for one tenant.

    Attributes:
        report: In the stage's own terms.
        show: Makes of it what is told of each asset, upstream assets first.
        done: Items that are done; what was done before does not count.
        since: Seq of the first post that it was concerned with.
        failures: Of items that failed for reasons not their own and stay to do.
        hopeless: One of the reasons will not pass by itself.
        has_more: The tenant's share was used up.
    """

    tenant: Tenant
    report: Report
    show: Callable[[Report], Awaitable[Sequence[Made]]]
    done: int
    since: int = NO_POST
    failures: Sequence[str] = ()
    hopeless: bool = False
    has_more: bool = False

    def raise_if_failed(self) -> None:
        """Let nothing be materialized that is done in parts only.

        Raises:
            dg.Failure: Items failed; see `failures.raise_if_any`.
        """
        raise_if_any(self.failures, done=self.done, hopeless=self.hopeless)

    async def shown(self) -> "Shown":
        """Give what is to be told."""
        return Shown(self.tenant, await self.show(self.report))


def joined(earlier: Outcome[Any], later: Outcome[Any]) -> Outcome[Any]:
    """Tell of two outcomes of a stage as of one; their reports are `Summed`."""
    return replace(later, report=earlier.report + later.report, done=earlier.done + later.done)


@dataclass(frozen=True, slots=True)
class Shown:
    """What is told of one tenant.

    Attributes:
        made: Upstream assets first.
    """

    tenant: Tenant
    made: Sequence[Made]

    def results(self) -> Iterator[dg.MaterializeResult[None]]:
        """Tell it to a run of one partition, whose downstream steps go on by it."""
        for made in self.made:
            yield dg.MaterializeResult(
                asset_key=made.asset,
                metadata=made.metadata,
                check_results=[
                    dg.AssetCheckResult(
                        asset_key=made.asset,
                        check_name=check.name,
                        passed=check.finding.severity is None,
                        severity=check.severity,
                        description=check.finding.message,
                        metadata=check.metadata,
                    )
                    for check in made.checks
                ],
            )

    def events(self) -> Iterator[dg.AssetMaterialization | dg.AssetCheckEvaluation]:
        """Tell it to a run of many tenants: each event names its partition, which a result cannot."""
        partition = str(self.tenant.id)
        for made in self.made:
            yield dg.AssetMaterialization(made.asset, partition=partition, metadata=made.metadata)
            for check in made.checks:
                yield dg.AssetCheckEvaluation(
                    asset_key=made.asset,
                    check_name=check.name,
                    partition=partition,
                    passed=check.finding.severity is None,
                    severity=check.severity,
                    description=check.finding.message,
                    metadata=check.metadata,
                )
