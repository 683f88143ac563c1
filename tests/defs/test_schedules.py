"""All schedules: when they run, and that they run by themselves."""

import re
from pathlib import Path

import dagster as dg

from vision_assets.definitions import build_defs

DOCS = Path(__file__).parents[2] / "docs" / "reference" / "assets.md"

SCHEDULES = {
    "daily_billing": ("billing", "40 0 * * *"),
    "dead_letter_retries_schedule": ("dead_letter_retries", "30 1 * * *"),
    "event_log_retention_schedule": ("event_log_retention", "30 3 * * *"),
    "provider_files_schedule": ("provider_files", "15 * * * *"),
    "six_hourly_storage_reconciliation": ("storage_reconciliation", "0 */6 * * *"),
    "storage_cleanup_schedule": ("storage_cleanup", "10 3 * * *"),
}
"""Job and time (UTC), by name."""


def test_every_schedule_runs_by_itself() -> None:
    """These and no others, each on from the start."""
    found = build_defs().get_repository_def().schedule_defs
    assert {one.name: (one.job_name, one.cron_schedule) for one in found} == SCHEDULES
    assert {one.default_status for one in found} == {dg.DefaultScheduleStatus.RUNNING}
    assert {one.execution_timezone or "UTC" for one in found} == {"UTC"}


def test_the_documentation_lists_them() -> None:
    """Each with its job and time."""
    rows = dict(re.findall(r"^\| `(\w+)` \| `(\w+)` \| `[^`]+` \|", DOCS.read_text(), flags=re.MULTILINE))
    assert rows == {name: job for name, (job, _) in SCHEDULES.items()}
    for name, (_, cron) in SCHEDULES.items():
        assert re.search(rf"^\| `{name}` \| `\w+` \| `{re.escape(cron)}` \|", DOCS.read_text(), flags=re.MULTILINE)
