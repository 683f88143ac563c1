"""What an error of an API like OpenAI's means: for good or for now, and whether the call may have been billed.

What is not here: what is done about it (`provider_calls.py`).
"""

from collections.abc import Mapping
from typing import Any

import httpx2
import openai
from pydantic import ValidationError

from vision_assets.clients.provider_calls import retry_after_seconds
from vision_assets.core.errors import (
    ConfigurationError,
    InputRejected,
    ProviderBudgetGone,
    ProviderUnavailable,
    VisionAssetsError,
)

_ADVICE: Mapping[int, str] = {
    httpx2.codes.UNAUTHORIZED: "Check OPENAI_API_KEY.",
    httpx2.codes.FORBIDDEN: "The account may not do this: check OPENAI_API_KEY and the model.",
    httpx2.codes.NOT_FOUND: "Check OPENAI_BASE_URL, and that the model exists, sees pictures and calls functions.",
}
_OF_THE_INPUT = (
    httpx2.codes.BAD_REQUEST,
    httpx2.codes.CONTENT_TOO_LARGE,
    httpx2.codes.UNPROCESSABLE_CONTENT,
)
_PASSING = (httpx2.codes.REQUEST_TIMEOUT, httpx2.codes.CONFLICT, httpx2.codes.TOO_MANY_REQUESTS)
# A gateway gave up waiting for the model, which may go on and be billed. The second is Cloudflare's.
_GIVEN_UP = (httpx2.codes.GATEWAY_TIMEOUT, 524)
_NO_MONEY = "insufficient_quota"


class ErrorInAnswer(Exception):
    """An error that came as an answer with status 200, as OpenRouter tells what happened behind it.

    Attributes:
        body: The error's object.
    """

    def __init__(self, body: Mapping[str, Any]) -> None:
        """Keep it whole."""
        super().__init__(str(body.get("message", ""))[:300])
        self.body = body


def is_slower_please(error: BaseException | None) -> bool:
    """Tell whether the provider only asks to be asked less often."""
    return isinstance(error, openai.APIStatusError | ErrorInAnswer) and _status(error) == httpx2.codes.TOO_MANY_REQUESTS


def translated(error: Exception, *, what: str, billed: bool) -> VisionAssetsError:
    """Tell an error of the SDK in the project's terms.

    An answer with an error's status carries no usage, so it was not billed; where there was no answer, or one that
    cannot be read, nobody knows.

    Args:
        what: Was done.
        billed: It costs tokens.
    """
    match error:
        case openai.APIStatusError() | ErrorInAnswer():
            return _refused(error, what, billed=billed)
        case openai.APIConnectionError():
            return _unanswered(error.__cause__ or error, what, billed=billed)
        case httpx2.HTTPError() | httpx2.InvalidURL():
            return _unanswered(error, what, billed=billed)
        case ValidationError() | ValueError() | TypeError() | LookupError() | openai.OpenAIError():
            return ProviderUnavailable(
                f"The provider's answer cannot be read ({what}): {type(error).__name__}", sent=billed
            )
    raise error


def _unanswered(error: BaseException, what: str, *, billed: bool) -> VisionAssetsError:
    said = str(error) or type(error).__name__
    match error:
        case httpx2.LocalProtocolError():
            return ConfigurationError(
                f"The request to the provider cannot be written ({what}). Check OPENAI_API_KEY: one line, no spaces."
            )
        case httpx2.UnsupportedProtocol() | httpx2.InvalidURL():
            return ConfigurationError(f"OPENAI_BASE_URL is no address of an API ({what}): {said}")
        case httpx2.ConnectError() | httpx2.ConnectTimeout() | httpx2.PoolTimeout():
            return ProviderUnavailable(f"The provider cannot be reached ({what}): {said}", sent=False)
        case _:
            return ProviderUnavailable(f"The provider broke off ({what}): {said}", sent=billed)


def _refused(error: openai.APIStatusError | ErrorInAnswer, what: str, *, billed: bool) -> VisionAssetsError:
    status, body = _status(error), error.body if isinstance(error.body, Mapping) else {}
    headers = error.response.headers if isinstance(error, openai.APIStatusError) else {}
    said = str(body.get("message") or body or error)[:300]
    text = f"The provider answered {status} ({what}, request {headers.get('x-request-id', '-')}): {said}"
    if status == httpx2.codes.PAYMENT_REQUIRED or _NO_MONEY in (body.get("code"), body.get("type")):
        return ProviderBudgetGone(f"{text}. Top the account up; until then no call is made.")
    if status in _PASSING or status >= httpx2.codes.INTERNAL_SERVER_ERROR:
        sent = billed and status in _GIVEN_UP
        return ProviderUnavailable(text, sent=sent, retry_after_seconds=retry_after_seconds(headers))
    if status in _OF_THE_INPUT or (status == httpx2.codes.FORBIDDEN and _is_flagged(body)):
        too_large = status == httpx2.codes.CONTENT_TOO_LARGE
        return InputRejected("too_large_for_provider" if too_large else "refused_by_provider", text)
    return ConfigurationError(f"{text}. {_ADVICE.get(status, 'Check OPENAI_BASE_URL.')}")


def _status(error: openai.APIStatusError | ErrorInAnswer) -> int:
    if isinstance(error, openai.APIStatusError):
        return error.status_code
    code = error.body.get("code")
    return code if isinstance(code, int) else httpx2.codes.INTERNAL_SERVER_ERROR


def _is_flagged(body: Mapping[str, Any]) -> bool:
    """Tell OpenRouter's "this input is not moderate" from "you may not"."""
    metadata = body.get("metadata")
    return isinstance(metadata, Mapping) and "flagged_input" in metadata
