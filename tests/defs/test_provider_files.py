"""The janitor of files at the vision provider, through Dagster, against the emulated server."""

from pathlib import Path
from typing import Any

import dagster as dg
import httpx

from tests.emulated_gigachat import EmulatedGigaChat, emulated_gigachat
from tests.pictures import encoded, photo
from vision_assets.clients.gigachat import FILE_PREFIX
from vision_assets.definitions import build_defs
from vision_assets.devstack.gigachat import BUSINESS
from vision_assets.resources import VisionProviderResource


def run(resource: VisionProviderResource) -> dict[str, Any]:
    """Run the job and give what it tells."""
    defs = build_defs(resources={"vision_provider": resource})
    with dg.DagsterInstance.ephemeral() as instance:
        result = defs.resolve_job_def("provider_files").execute_in_process(instance=instance, raise_on_error=False)
        if not result.success:
            (failure,) = result.get_step_failure_events()
            return {"failed": str(failure.event_specific_data)}
        (output,) = [event for event in result.all_node_events if event.is_successful_output]
        data = output.step_output_data
        return {name: value.value for name, value in data.metadata.items()}


def uploaded(server: EmulatedGigaChat, name: str) -> None:
    """Upload a file, as a worker does that is killed afterwards."""
    with httpx.Client(verify=server.trust, headers=server.headers("tenant"), trust_env=False) as client:
        picture = {"file": (name, encoded(photo(64, 48)), "image/jpeg")}
        assert client.post(f"{server.base_url}/files", files=picture, data={"purpose": "general"}).status_code == 200


def test_leftovers_are_looked_for(tmp_path: Path) -> None:
    """The job asks the provider for its files, and leaves young ones; the local provider has none and is not asked.

    GigaChat is asked wherever there is an account: a tenant may have chosen it.
    """
    with emulated_gigachat(tmp_path) as server:
        uploaded(server, f"{FILE_PREFIX}a.jpeg")
        resource = VisionProviderResource(
            provider="gigachat",
            gigachat_credentials=BUSINESS.credentials,
            gigachat_scope="GIGACHAT_API_B2B",
            gigachat_base_url=server.base_url,
            gigachat_auth_url=server.auth_url,
            gigachat_ca_file=str(server.ca_file),
        )
        assert run(resource) == {"deleted_files": 0}
        assert server.counts()["calls"][""]["files.list"] == {"200": 1}
        assert len(server.files()) == 1
        assert run(VisionProviderResource()) == {"deleted_files": 0}
        assert server.counts()["calls"][""]["files.list"] == {"200": 1}
        of_a_tenant = resource.model_copy(update={"provider": "local"})
        assert run(of_a_tenant) == {"deleted_files": 0}
        assert server.counts()["calls"][""]["files.list"] == {"200": 2}


def test_without_credentials_the_job_says_which_setting() -> None:
    """Who wants GigaChat without an account hears what to set."""
    assert "GIGACHAT_CREDENTIALS" in run(VisionProviderResource(provider="gigachat"))["failed"]
