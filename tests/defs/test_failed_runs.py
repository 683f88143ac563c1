"""What of failed runs people are told, tenant by tenant, and when it is well again, over a real log of Dagster."""

import logging
import time
from collections.abc import Iterator

import dagster as dg
import pytest
from dagster._core.events import DagsterEvent

from tests.alert_office import DEFS, Office, Turn, opened_office
from vision_assets.defs.alerts import RunCursor, run_failure_alerts
from vision_assets.defs.failed_runs import RETRIED_BY, WILL_RETRY


@pytest.fixture
def office(bare_database: str, database: str) -> Iterator[Office]:
    """An office with three tenants."""
    with opened_office(bare_database, database) as opened:
        yield opened


def test_a_run_over_many_tenants_tells_whose_work_failed(office: Office) -> None:
    """Those that the step names; each is well again when it has been materialized, alone or with others."""
    run_id = office.run("stored", "Alpha", "Gamma", bad=("Beta", "Gamma"))
    assert "2 failures were read, 0 were made good" in office.tick(run_failure_alerts)
    assert sorted(office.told()) == [("opened", "stored", ["Beta"]), ("opened", "stored", ["Gamma"])]
    [one, _] = office.reports()
    transition = one.message.told[0].transition
    assert (transition.severity, transition.run_id) == ("error", run_id)
    assert transition.message == "2 tenants failed: top the account up."
    # A run that materialized a tenant and failed for another one has made the first one good.
    office.run("stored", "Alpha", "Gamma", bad=("Gamma",))
    office.tick(run_failure_alerts)
    assert office.told()[2:] == [("resolved", "stored", ["Beta"])]
    office.run("stored", "Gamma")
    office.tick(run_failure_alerts)
    assert office.told()[3:] == [("resolved", "stored", ["Gamma"])]
    assert "0 were made good. 0 changes" in office.tick(run_failure_alerts)


def test_each_tenant_of_a_run_hears_of_its_own(office: Office) -> None:
    """Of the assets that its own turn has not made, with its own reason; each is well again by these alone."""
    office.take_turns(Turn("Alpha", broken=["stored"]), Turn("Gamma", made=["stored"]), Turn("Beta", broken=["later"]))
    office.tick(run_failure_alerts)
    assert sorted(office.told()) == [("opened", "later", ["Beta"]), ("opened", "stored", ["Alpha"])]
    assert {report.message.told[0].transition.message for report in office.reports()} == {
        "Alpha has no stored.",
        "Beta has no later.",
    }
    office.take_turns(Turn("Alpha", made=["stored"]), Turn("Beta", made=["stored"]))
    office.tick(run_failure_alerts)
    assert office.told()[2:] == [("resolved", "stored", ["Alpha"])]


@pytest.mark.parametrize("line", [(), ("gone",)], ids=["named in the end", "named by nobody"])
def test_a_tenant_that_breaks_after_it_went_well(office: Office, line: tuple[str, ...]) -> None:
    """What the same run had materialized before is not done, neither for this run's alert nor for an earlier one's."""
    turns = Turn("Alpha", made=["stored"]), Turn("Beta", broken=["stored"]), Turn("Alpha", broken=["stored"])
    office.take_turns(*turns, line=line)
    office.tick(run_failure_alerts)
    both = [("opened", "stored", ["Alpha"]), ("opened", "stored", ["Beta"])]
    assert sorted(office.told()) == both
    office.take_turns(*turns, line=line)
    assert "0 were made good" in office.tick(run_failure_alerts)
    assert sorted(office.told()) == both


def test_a_turn_that_went_well_makes_good_although_nothing_was_left_to_do(office: Office) -> None:
    """Without a materialization; what failed in another run is not made good by it."""
    office.end_turn("Alpha", "no_such_key")
    office.take_turns(Turn("Alpha", broken=["stored"]))
    office.run("later", "Alpha", bad=("Alpha",))
    office.tick(run_failure_alerts)
    assert "0 were made good" in office.tick(run_failure_alerts)
    assert sorted(office.told()) == [("opened", "later", ["Alpha"]), ("opened", "stored", ["Alpha"])]
    office.end_turn("Alpha")
    assert "1 were made good" in office.tick(run_failure_alerts)
    assert office.told()[2:] == [("resolved", "stored", ["Alpha"])]
    office.tick(run_failure_alerts)
    assert len(office.told()) == 3


def test_what_was_made_before_the_failure_does_not_make_it_good(office: Office) -> None:
    """Even if the clock by which it was made is ahead of that of the failure."""
    office.run("stored", "Alpha")
    office.run("stored", "Alpha", bad=("Alpha",))
    office.age_failures(hours=1)
    office.tick(run_failure_alerts)
    assert "0 were made good" in office.tick(run_failure_alerts)
    office.run("stored", "Alpha")
    assert "1 were made good" in office.tick(run_failure_alerts)


def test_steps_that_could_not_begin_are_not_told_of(office: Office) -> None:
    """Of a chain the step that failed is told; a bug is told by its error."""
    office.run("both", "Alpha", bad=("Alpha",))
    office.tick(run_failure_alerts)
    assert office.told() == [("opened", "stored", ["Alpha"])]
    office.run("later", "Beta", bad=("Beta",))
    office.tick(run_failure_alerts)
    assert office.told()[1:] == [("opened", "later", ["Beta"])]
    assert office.reports()[-1].message.told[0].transition.message == "ZeroDivisionError: nobody thought of it"


def test_a_job_without_assets_is_well_again_when_it_succeeds(office: Office) -> None:
    """It is told by its name."""
    office.run("tidying", bad=("the room",))
    office.tick(run_failure_alerts)
    assert office.told() == [("opened", "job tidying", [""])]
    assert office.reports()[0].message.title() == "🔴 Error: runs of job tidying"
    office.tick(run_failure_alerts)
    office.run("tidying")
    office.tick(run_failure_alerts)
    assert office.told()[1:] == [("resolved", "job tidying", [""])]


def test_a_run_that_will_be_retried_is_not_told_of(office: Office) -> None:
    """Only the last failure is, or one whose retry was given up."""
    first = office.run("stored", "Alpha", bad=("Alpha",), tags={WILL_RETRY: "true"})
    office.tick(run_failure_alerts)
    assert office.told() == []
    assert RunCursor.model_validate_json(office.cursors["run_failure_alerts"] or "").undecided == (first,)
    office.instance.add_run_tags(first, {RETRIED_BY: "another"})
    office.run("stored", "Alpha", bad=("Alpha",), tags={WILL_RETRY: "false"})
    office.tick(run_failure_alerts)
    assert office.told() == [("opened", "stored", ["Alpha"])]
    assert RunCursor.model_validate_json(office.cursors["run_failure_alerts"] or "").undecided == ()
    second = office.run("stored", "Beta", bad=("Beta",), tags={WILL_RETRY: "true"})
    office.tick(run_failure_alerts)
    office.instance.add_run_tags(second, {WILL_RETRY: "false"})
    office.tick(run_failure_alerts)
    assert office.told()[1:] == [("opened", "stored", ["Beta"])]


@pytest.mark.parametrize(("begun", "subject"), [("stored", "stored"), ("", "later+stored")])
def test_a_worker_that_was_killed(office: Office, begun: str, subject: str) -> None:
    """Without a failed step it is the step that had begun, else all; with what Dagster says of the run's end."""
    run = office.instance.create_run_for_job(
        DEFS.resolve_job_def("both"), tags={"dagster/partition": office.tenants["Beta"]}
    )
    if begun:
        event = DagsterEvent(dg.DagsterEventType.STEP_START.value, job_name="both", step_key=begun)
        office.instance.report_dagster_event(event, run.run_id)
    office.instance.report_run_failed(run, "The worker is gone.")
    office.tick(run_failure_alerts)
    assert office.told() == [("opened", subject, ["Beta"])]
    assert "The worker is gone." in office.reports()[0].message.body()
    for asset in ("later", "stored"):
        office.run(asset, "Beta")
    office.tick(run_failure_alerts)
    assert office.told()[1:] == [("resolved", subject, ["Beta"])]


def test_a_failure_waits_until_it_is_known_whether_it_is_retried(bare_database: str, database: str) -> None:
    """Where runs are retried Dagster writes that after the failure; what failed later is told meanwhile, and once."""
    with opened_office(bare_database, database, run_retries={"enabled": True, "max_retries": 0}) as office:
        tags = {"dagster/partition": office.tenants["Alpha"]}
        early = office.instance.create_run_for_job(DEFS.resolve_job_def("both"), tags=tags)
        failure = DagsterEvent(dg.DagsterEventType.RUN_FAILURE.value, job_name="both", message="It is gone.")
        entry = dg.EventLogEntry(None, logging.ERROR, "", early.run_id, time.time(), None, "both", failure)  # type: ignore[no-untyped-call]
        office.instance.event_log_storage.store_event(entry)  # and its process dies before it writes more
        office.run("stored", "Beta", bad=("Beta",))
        office.tick(run_failure_alerts)
        assert office.told() == [("opened", "stored", ["Beta"])]
        assert "0 failures" in office.tick(run_failure_alerts)
        office.instance.add_run_tags(early.run_id, {WILL_RETRY: "false"})
        assert "1 failures" in office.tick(run_failure_alerts)
        assert office.told()[1:] == [("opened", "later+stored", ["Alpha"])]
        assert "0 failures" in office.tick(run_failure_alerts)


def test_clocks_that_are_ahead_or_behind_hide_no_failure(office: Office) -> None:
    """Nor that the work has been done since."""
    office.run("stored", "Alpha", bad=("Alpha",))
    office.run("stored", "Beta", bad=("Beta",))
    office.age_failures(hours=-1)
    assert "2 failures" in office.tick(run_failure_alerts)
    office.run("stored", "Alpha")
    assert "1 were made good. 1 changes" in office.tick(run_failure_alerts)


def test_a_failure_that_is_committed_late_is_told_once(office: Office) -> None:
    """Its id is below the cursor when it appears; those around it were read and are left alone."""
    office.run("stored", "Alpha", bad=("Alpha",))
    late = "dagster_event_type = 'PIPELINE_FAILURE'"
    office.execute(f"CREATE TABLE late AS SELECT * FROM event_logs WHERE {late}; DELETE FROM event_logs WHERE {late}")  # noqa: S608
    office.run("stored", "Beta", bad=("Beta",))
    assert "1 failures" in office.tick(run_failure_alerts)
    office.execute("INSERT INTO event_logs SELECT * FROM late")
    assert "1 failures" in office.tick(run_failure_alerts)
    assert office.told() == [("opened", "stored", ["Beta"]), ("opened", "stored", ["Alpha"])]
    assert "0 failures" in office.tick(run_failure_alerts)
