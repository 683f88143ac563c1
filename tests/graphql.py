"""Dagster's webserver, asked as its UI asks it. What is not here: how it is started, and assertions."""

import time
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any, Literal

import httpx

LAUNCH = """
mutation ($assets: [AssetKeyInput!]!, $partitions: [String!]!) {
  launched: launchPartitionBackfill(backfillParams: {assetSelection: $assets, partitionNames: $partitions}) {
    ... on LaunchBackfillSuccess { backfillId }
    ... on Error { message }
  }
}"""
RETRY = """
mutation ($id: String!) {
  launched: reexecutePartitionBackfill(reexecutionParams: {parentRunId: $id, strategy: FROM_FAILURE}) {
    ... on LaunchBackfillSuccess { backfillId }
    ... on Error { message }
  }
}"""
RUN = """
mutation ($job: String!, $assets: [AssetKeyInput!], $tags: [ExecutionTag!]!) {
  launched: launchRun(executionParams: {
    selector: {repositoryLocationName: "vision_assets", repositoryName: "__repository__", jobName: $job,
      assetSelection: $assets}
    executionMetadata: {tags: $tags}
  }) {
    ... on LaunchRunSuccess { run { id } }
    ... on Error { message }
  }
}"""
BACKFILL = """
query ($id: String!) { backfill: partitionBackfillOrError(backfillId: $id) {
  ... on PartitionBackfill { status }
  ... on Error { message }
} }"""
RUNS = """
query ($filter: RunsFilter!) { runs: runsOrError(filter: $filter) {
  ... on Runs { results { id status creationTime startTime endTime tags { key value } } }
  ... on Error { message }
} }"""
SENSOR = """
query ($name: String!) { sensor: sensorOrError(sensorSelector: {
  repositoryLocationName: "vision_assets", repositoryName: "__repository__", sensorName: $name
}) {
  ... on Sensor { id }
  ... on Error { message }
} }"""
STOP_SENSOR = """
mutation ($id: String!) { stopped: stopSensor(id: $id) {
  ... on StopSensorMutationResult { instigationState { status } }
  ... on Error { message }
} }"""
PARTITIONS = """
query ($asset: AssetKeyInput!) { asset: assetNodeOrError(assetKey: $asset) {
  ... on AssetNode { assetPartitionStatuses { ... on DefaultPartitionStatuses {
    materializedPartitions failedPartitions unmaterializedPartitions
  } } }
} }"""

ENDED = {"COMPLETED", "COMPLETED_SUCCESS", "COMPLETED_FAILED", "FAILED", "CANCELED"}
State = Literal["materialized", "failed", "unmaterialized"]


@dataclass(frozen=True, slots=True)
class Run:
    """A run, with Unix times; None: not yet."""

    id: str
    status: str
    tags: dict[str, str]
    created_at: float
    ended_at: float | None

    @property
    def partitions(self) -> tuple[str, str]:
        """The first and the last of its partitions."""
        alone = self.tags.get("dagster/partition", "")
        return (
            self.tags.get("dagster/asset_partition_range_start", alone),
            self.tags.get("dagster/asset_partition_range_end", alone),
        )


@dataclass(frozen=True, slots=True)
class Dagster:
    """A webserver by its URL."""

    url: str

    def ask(self, query: str, **variables: Any) -> Any:
        """Ask, and give the answer's data."""
        answer = httpx.post(f"{self.url}/graphql", json={"query": query, "variables": variables}, timeout=120)
        answer.raise_for_status()
        told = answer.json()
        assert "errors" not in told, told["errors"]
        return told["data"]

    def backfill(self, assets: Iterable[str], partitions: Collection[str]) -> str:
        """Launch a backfill; gives its id."""
        launched = self.ask(LAUNCH, assets=[{"path": [asset]} for asset in assets], partitions=list(partitions))
        return str(launched["launched"]["backfillId"])

    def retry(self, backfill_id: str) -> str:
        """Re-execute a backfill from failure; gives the new one's id."""
        return str(self.ask(RETRY, id=backfill_id)["launched"]["backfillId"])

    def run(self, job: str, assets: Iterable[str], partition: str) -> str:
        """Launch a run of some assets of a job for one partition; gives its id."""
        tags = [{"key": "dagster/partition", "value": partition}]
        launched = self.ask(RUN, job=job, assets=[{"path": [asset]} for asset in assets], tags=tags)
        return str(launched["launched"]["run"]["id"])

    def wait(self, backfill_id: str, *, seconds: float) -> str:
        """Wait until a backfill has ended; gives its status."""
        deadline = time.monotonic() + seconds
        while (status := self.ask(BACKFILL, id=backfill_id)["backfill"]["status"]) not in ENDED:
            assert time.monotonic() < deadline, f"the backfill is {status} after {seconds} s: {self.runs(backfill_id)}"
            time.sleep(1)
        return str(status)

    def runs(self, backfill_id: str) -> list[Run]:
        """List a backfill's runs."""
        return self._runs({"tags": [{"key": "dagster/backfill", "value": backfill_id}]})

    def wait_for_runs(self, run_ids: Collection[str], *, seconds: float) -> list[Run]:
        """Wait until runs have ended."""
        deadline = time.monotonic() + seconds
        while True:
            runs = self._runs({"runIds": list(run_ids)})
            if all(run.ended_at is not None for run in runs):
                return runs
            assert time.monotonic() < deadline, f"not ended after {seconds} s: {runs}"
            time.sleep(1)

    def under_way(self, job: str) -> list[Run]:
        """List the runs of a job that have begun and not ended, as far as Dagster knows."""
        return self._runs({"pipelineName": job, "statuses": ["STARTING", "STARTED"]})

    def stop_sensor(self, name: str) -> None:
        """Switch a sensor off."""
        sensor = self.ask(SENSOR, name=name)["sensor"]
        stopped = self.ask(STOP_SENSOR, id=sensor["id"])["stopped"]
        assert stopped["instigationState"]["status"] == "STOPPED", stopped

    def _runs(self, only: dict[str, Any]) -> list[Run]:
        return [
            Run(
                run["id"],
                run["status"],
                {tag["key"]: tag["value"] for tag in run["tags"]},
                run["creationTime"],
                run["endTime"],
            )
            for run in self.ask(RUNS, filter=only)["runs"]["results"]
        ]

    def partitions(self, asset: str) -> dict[State, set[str]]:
        """Tell an asset's partitions by their state."""
        told = self.ask(PARTITIONS, asset={"path": [asset]})["asset"]["assetPartitionStatuses"]
        return {
            "materialized": set(told["materializedPartitions"]),
            "failed": set(told["failedPartitions"]),
            "unmaterialized": set(told["unmaterializedPartitions"]),
        }
