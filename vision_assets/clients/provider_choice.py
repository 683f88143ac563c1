"""Who looks at a tenant's pictures, told without a connection.

What is not here: opening a provider (`resources/`), and the providers themselves.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from vision_assets.clients.local_vision import LocalVision
from vision_assets.core.errors import ConfigurationError
from vision_assets.core.policy import VisionPolicy
from vision_assets.core.vision import ProviderIdentity, ProviderName


def choose_provider(
    policy: VisionPolicy, *, provider: str, gigachat_model: str, openai_model: str | None
) -> tuple[ProviderName, str]:
    """Tell name and model: the policy chooses, and the settings say what it leaves open.

    Args:
        provider: Of the settings, as are the models.

    Raises:
        ConfigurationError: There is no such provider, or no model is named for it.
    """
    match policy.provider or provider:
        case "local":
            if policy.model is not None:
                raise ConfigurationError(
                    f"The policy names the model {policy.model}, and the provider local has none to choose: let "
                    "the policy name its provider too, or set VISION_PROVIDER."
                )
            return "local", LocalVision.model
        case "gigachat":
            return "gigachat", policy.model or gigachat_model
        case "openai":
            if model := policy.model or openai_model:
                return "openai", model
            raise ConfigurationError(
                "openai is to look at pictures, and no model is named: set OPENAI_MODEL, or `model` in the policy."
            )
        case unknown:
            raise ConfigurationError(f"There is no provider {unknown!r}: set local, gigachat or openai.")


@asynccontextmanager
async def provider_identity(
    name: ProviderName, model: str, policy: VisionPolicy, *, ocr_languages: str
) -> AsyncIterator[ProviderIdentity]:
    """Tell as whom a provider answers: of the local one Tesseract is asked, of the others nobody.

    Args:
        name: As chosen, as is the model.
        ocr_languages: Tesseract languages, joined by `+`.
    """
    match name:
        case "gigachat":
            from vision_assets.clients.gigachat_vision import GigaChatVision  # noqa: PLC0415 - the SDK takes a second to load

            yield GigaChatVision.identity(model, policy.description_language, policy.prompts)
        case "openai":
            from vision_assets.clients.openai_vision import OpenAIVision  # noqa: PLC0415 - the same

            yield OpenAIVision.identity(model, policy.description_language, policy.prompts)
        case "local":
            async with LocalVision.open(languages=ocr_languages) as local:
                yield local
