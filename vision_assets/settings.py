"""Every setting of the project, typed, with units in the names.

Order: environment, then the embedded parts' endpoints file, then the default. An unset URL means the embedded part.
What is not here: opening anything (`resources.py`, `clients/`).
"""

import os
from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr
from pydantic_settings import (
    BaseSettings,
    JsonConfigSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

PROJECT_ROOT = Path(__file__).resolve().parents[1]


def data_dir() -> Path:
    """Tell the folder of everything that the project keeps on this machine: `VISION_ASSETS_DATA_DIR` or `.data`."""
    return Path(os.environ.get("VISION_ASSETS_DATA_DIR") or PROJECT_ROOT / ".data").resolve()


def endpoints_file() -> Path:
    """Tell the file in which the running embedded parts write their URLs, in the names of the settings below."""
    return data_dir() / "endpoints.json"


class Settings(BaseSettings):
    """What is in force in this process. Field names in upper case are the environment variables."""

    model_config = SettingsConfigDict(extra="ignore", frozen=True, env_ignore_empty=True)

    database_url: SecretStr | None = Field(None, description="Postgres, postgresql://user:password@host:port/database")
    dagster_postgres_url: SecretStr | None = Field(
        None, description="Dagster's own database, postgresql+psycopg2://…; unset: DATABASE_URL's"
    )
    s3_endpoint_url: str | None = Field(None, description="S3 server; unset with AWS_ACCESS_KEY_ID set: AWS itself")
    s3_bucket: str = Field("vision-assets", description="Bucket of all tenants' objects")
    aws_access_key_id: SecretStr | None = Field(None, description="Unset: what the machine gives (role, profile)")
    aws_secret_access_key: SecretStr | None = Field(None, description="Goes with AWS_ACCESS_KEY_ID")
    aws_region: str = Field("us-east-1", description="Region of the bucket")
    qdrant_url: str | None = Field(None, description="Qdrant, http(s)://host:port")
    qdrant_api_key: SecretStr | None = Field(None, description="Of a Qdrant server that asks for one")

    ocr_languages: str = Field("rus+eng", description="Tesseract languages, joined by +")
    media_concurrency: int = Field(8, ge=1, description="Files read and uploaded at once, per run")
    decode_threads: int = Field(2, ge=1, description="Pictures decoded at once, per run; each may hold a full bitmap")
    vision_concurrency: int = Field(2, ge=1, description="Pictures analysed at once, per run")

    storage_bucket_limit_bytes: int = Field(15 * 2**30, gt=0, description="Of the whole bucket")
    storage_tenant_limit_bytes: int = Field(2 * 2**30, gt=0, description="Of one tenant, all types")
    storage_media_limit_bytes: int = Field(10 * 2**30, gt=0, description="Of all tenants' media")
    storage_vision_limit_bytes: int = Field(2 * 2**30, gt=0, description="Of all tenants' vision results")
    storage_crawl_limit_bytes: int = Field(2 * 2**30, gt=0, description="Of all tenants' crawled pages")

    event_retention_days: int = Field(30, ge=1, description="Of Dagster's log events; materializations stay")
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field("INFO", description="Least severity that is logged")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Put the endpoints file below the environment."""
        return init_settings, env_settings, JsonConfigSettingsSource(settings_cls, json_file=endpoints_file())

    def environment(self) -> dict[str, str]:
        """Tell the settings as environment variables, secrets in clear, for child processes and Dagster's `EnvVar`."""
        return {
            name.upper(): value.get_secret_value() if isinstance(value, SecretStr) else str(value)
            for name, value in self
            if value is not None
        }
