"""Jobs: the whole chain for one tenant, in one process; and what jobs have in common.

What is not here: jobs with work of their own (each beside its schedule or sensor).
"""

import dagster as dg

TENANT_PIPELINE = "tenant_pipeline"
BILLING = "billing"
"""Group of what follows the calendar instead of the posts."""

HAS_AN_END = {"dagster/max_runtime": "7200"}
"""Tags of a job whose runs take minutes: one of two hours hangs, and is ended."""

UPKEEP = {"vision_assets/upkeep": "true", **HAS_AN_END}
"""Tags of a job that is of no tenant; one such run at a time (`dagster.yaml`)."""

tenant_pipeline = dg.define_asset_job(
    TENANT_PIPELINE,
    selection=dg.AssetSelection.all() - dg.AssetSelection.groups(BILLING),
    executor_def=dg.in_process_executor,
    tags={"dagster/priority": "5"},  # before backfills, which have none
    description="Everything for one tenant, from new references to the search index; does only what is not done.",
)
