"""Jobs: the whole chain for one tenant, in one process."""

import dagster as dg

TENANT_PIPELINE = "tenant_pipeline"
BILLING = "billing"
"""Group of what follows the calendar instead of the posts."""

tenant_pipeline = dg.define_asset_job(
    TENANT_PIPELINE,
    selection=dg.AssetSelection.all() - dg.AssetSelection.groups(BILLING),
    executor_def=dg.in_process_executor,
    tags={"dagster/priority": "5"},  # before backfills, which have none
    description="Everything for one tenant, from new references to the search index; does only what is not done.",
)
