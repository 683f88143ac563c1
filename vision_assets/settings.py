"""Every setting of the project, typed, with units in the names.

Order: environment, then the embedded parts' endpoints file, then the default. An unset URL means the embedded part.
What is not here: opening anything (`resources/`, `clients/`).
"""

import os
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, SecretStr
from pydantic_settings import (
    BaseSettings,
    JsonConfigSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from vision_assets.core.budget import Allowance, BudgetLimits
from vision_assets.core.price import TokenPrice
from vision_assets.core.quota import StorageLimits
from vision_assets.core.vision import ProviderName

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

    vision_provider: ProviderName | None = Field(
        None,
        description="local, gigachat or openai, where the policy names none; unset: gigachat where "
        "GIGACHAT_CREDENTIALS is set, else local",
    )
    gigachat_credentials: SecretStr | None = Field(None, description="Authorization key of the GigaChat account")
    gigachat_scope: Literal["GIGACHAT_API_PERS", "GIGACHAT_API_B2B", "GIGACHAT_API_CORP"] = Field(
        "GIGACHAT_API_PERS", description="Of the account: personal, business by package, business by use"
    )
    gigachat_model: str = Field("GigaChat-2-Max", description="One that sees pictures")
    gigachat_base_url: str | None = Field(None, description="Of the API; unset: as the official client has it")
    gigachat_auth_url: str | None = Field(None, description="Of OAuth; unset: as the official client has it")
    gigachat_ca_file: Path | None = Field(
        None, description="PEM of the authorities that vouch for GigaChat; unset: those of the system"
    )

    openai_base_url: str = Field(
        "https://api.openai.com/v1", description="Of any API that speaks as OpenAI's: OpenRouter, vLLM, Ollama"
    )
    openai_api_key: SecretStr | None = Field(None, description="Unset: none is sent; Ollama asks for none")
    openai_model: str | None = Field(None, description="One that sees pictures, by the API's own name")

    ocr_languages: str = Field("rus+eng", description="Tesseract languages, joined by +")
    media_concurrency: int = Field(8, ge=1, description="Files read and uploaded at once, per run")
    decode_threads: int = Field(2, ge=1, description="Pictures decoded at once, per run; each may hold a full bitmap")
    vision_concurrency: int = Field(
        2, ge=1, description="Pictures analysed at once, per run; of `new_posts`, per tenant"
    )
    vision_policy_file: Annotated[Path, AfterValidator(Path.absolute)] | None = Field(
        None, description="YAML file of the vision policy, docs/reference/policy.md; unset: its defaults"
    )

    storage_bucket_limit_bytes: int = Field(15 * 2**30, gt=0, description="Of the whole bucket")
    storage_tenant_limit_bytes: int = Field(2 * 2**30, gt=0, description="Of one tenant, all types")
    storage_media_limit_bytes: int = Field(10 * 2**30, gt=0, description="Of all tenants' media")
    storage_vision_limit_bytes: int = Field(2 * 2**30, gt=0, description="Of all tenants' vision results")
    storage_crawl_limit_bytes: int = Field(2 * 2**30, gt=0, description="Of all tenants' crawled pages")
    storage_unchecked_limit_bytes: int = Field(
        256 * 2**20, ge=0, description="Of puts that one process makes while the ledger cannot be reached; 0: none"
    )

    storage_emergency_bytes: int = Field(
        14 * 2**30, gt=0, description="Stored and reserved; from here on the emergency clean-up runs"
    )
    storage_emergency_target_bytes: int = Field(12 * 2**30, ge=0, description="Where the emergency clean-up ends")
    storage_media_ttl_days: int = Field(30, ge=1, description="Of media that no post refers to, since the last use")
    storage_vision_ttl_days: int = Field(14, ge=1, description="Of results and albums' summaries in S3")
    storage_crawl_ttl_days: int = Field(7, ge=1, description="Of crawled pages")

    budget_tenant_day_tokens: int = Field(250_000, ge=0, description="Of one tenant and UTC day, all providers")
    budget_tenant_month_tokens: int | None = Field(
        None, ge=0, description="Of one tenant and UTC month; unset: no limit"
    )
    budget_tenant_day_requests: int | None = Field(
        None, ge=0, description="Calls that cost, of one tenant and UTC day; unset: no limit"
    )
    budget_tenant_month_requests: int | None = Field(
        None, ge=0, description="Calls that cost, of one tenant and UTC month; unset: no limit"
    )
    budget_tenant_calls: int = Field(3, ge=1, description="Calls at once of one tenant to one provider")
    budget_global_day_tokens: int | None = Field(
        None, ge=0, description="Of all tenants and one UTC day; unset: no limit"
    )
    budget_global_month_tokens: int | None = Field(
        None, ge=0, description="Of all tenants and one UTC month; unset: no limit"
    )
    budget_global_calls: int | None = Field(
        None,
        ge=1,
        description="Calls at once of all tenants to one provider; unset: 1 to GigaChat of a personal account, else 10",
    )
    budget_estimate_floor_tokens: int = Field(
        1792,
        ge=0,
        description="A call is held at this at least; also as long as too few have been settled to learn from",
    )

    vision_price_per_million_tokens: Decimal | None = Field(
        None,
        ge=0,
        description="Of the tokens of the provider that these settings name, in VISION_CURRENCY; of any other, and "
        "unset: no cost is told",
    )
    vision_currency: str = Field("RUB", pattern="^[A-Z]{3}$", description="In which the provider bills, ISO 4217")

    new_posts_runs: int = Field(2, ge=1, description="Runs of `new_posts` at once")
    new_posts_tenants_at_once: int = Field(4, ge=1, description="That one run of `new_posts` works on")
    new_posts_run_seconds: int = Field(300, ge=1, description="Then a run of `new_posts` takes no more tenants")
    new_posts_pictures_a_turn: int = Field(
        50, ge=1, description="Of one tenant; then it goes to the end of the line, so that none waits for a large one"
    )
    new_posts_posts_a_turn: int = Field(1000, ge=1, description="The same, of posts that are enriched and indexed")
    service_port: int = Field(9464, ge=0, le=65535, description="Of `vision-assets serve`; 0: any free one")
    metrics_tenants: int = Field(
        500, ge=0, description="Tenants with series of their own, the fullest ones; the others are summed up as `other`"
    )
    dead_letter_retries: int = Field(
        3, ge=0, description="Of one item that was given up for a reason that may pass, once a day; 0: none"
    )
    telegram_bot_token: SecretStr | None = Field(None, description="Of the bot that writes alerts")
    telegram_api_url: str = Field("https://api.telegram.org", description="Of the Bot API, or of a server of your own")
    alert_telegram_chat_id: str | None = Field(
        None, description="Chat that alerts go to: a number, or @name of a channel; unset: none goes to Telegram"
    )
    alert_webhook_url: SecretStr | None = Field(
        None, description="Takes alerts as Alertmanager sends them; unset: none goes to a webhook"
    )
    dagster_ui_url: str | None = Field(
        None, description="Of Dagster's UI, for links in alerts; unset: that of `vision-assets up`, else no links"
    )
    alert_reminder_hours: float = Field(24, gt=0, description="Until people are told again of what is still wrong")
    alert_group_above: int = Field(
        5, ge=1, description="Tenants for which a check fails within ten minutes; more of them share a message"
    )
    alert_flapping_changes: int = Field(
        4, ge=1, description="Of a check within ALERT_FLAPPING_HOURS; after more people hear no more of it"
    )
    alert_flapping_hours: float = Field(
        24, gt=0, description="See ALERT_FLAPPING_CHANGES; people hear of it again when it has not changed for as long"
    )

    event_retention_days: int = Field(
        30, ge=1, description="Of Dagster's log; of each asset, check and partition the newest ten stay for ever"
    )
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

    @property
    def provider(self) -> ProviderName:
        """Who looks at pictures, where the policy names nobody."""
        return self.vision_provider or ("gigachat" if self.gigachat_credentials else "local")

    def calls_at_once(self, provider: ProviderName) -> int:
        """Of all tenants to one provider."""
        is_personal = provider == "gigachat" and self.gigachat_scope == "GIGACHAT_API_PERS"
        return self.budget_global_calls or (1 if is_personal else 10)

    def storage_limits(self) -> StorageLimits:
        """Gather the storage limits; a tenant's hold where none is set with `vision-assets quota set`."""
        return StorageLimits(
            bucket_bytes=self.storage_bucket_limit_bytes,
            tenant_bytes=self.storage_tenant_limit_bytes,
            type_bytes={
                "crawl": self.storage_crawl_limit_bytes,
                "media": self.storage_media_limit_bytes,
                "vision": self.storage_vision_limit_bytes,
            },
        )

    def budget_limits(self, provider: ProviderName | None = None) -> BudgetLimits:
        """Gather the token budget's limits; they hold where none is set with `vision-assets budget set`.

        Args:
            provider: To whom the calls at once go; None: to that of the settings.
        """
        return BudgetLimits(
            tenant={
                "day": Allowance(self.budget_tenant_day_tokens, self.budget_tenant_day_requests),
                "month": Allowance(self.budget_tenant_month_tokens, self.budget_tenant_month_requests),
                "calls": Allowance(requests=self.budget_tenant_calls),
            },
            everyone={
                "day": Allowance(self.budget_global_day_tokens),
                "month": Allowance(self.budget_global_month_tokens),
                "calls": Allowance(requests=self.calls_at_once(provider or self.provider)),
            },
        )

    def token_prices(self) -> dict[ProviderName, TokenPrice]:
        """Tell what tokens cost, by provider: of that of the settings, if it is set, and of no other."""
        per_million = self.vision_price_per_million_tokens
        return {} if per_million is None else {self.provider: TokenPrice(per_million, self.vision_currency)}

    def environment(self) -> dict[str, str]:
        """Tell the settings as environment variables, secrets in clear, for child processes and Dagster's `EnvVar`."""
        return {
            name.upper(): value.get_secret_value() if isinstance(value, SecretStr) else str(value)
            for name, value in self
            if value is not None
        }
