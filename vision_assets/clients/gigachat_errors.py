"""What an error of GigaChat's SDK means: for good or for now, and whether the call may have been billed.

What is not here: what is done about it (`gigachat.py`).
"""

from collections.abc import Mapping

import gigachat.exceptions as sdk
import httpx
from pydantic import ValidationError

from vision_assets.clients.provider_calls import retry_after_seconds
from vision_assets.core.errors import (
    ConfigurationError,
    InputRejected,
    ProviderBudgetGone,
    ProviderUnavailable,
    VisionAssetsError,
)

_OAUTH = "/oauth"
_ADVICE: Mapping[int, str] = {
    httpx.codes.UNAUTHORIZED: "Check GIGACHAT_CREDENTIALS and GIGACHAT_SCOPE.",
    httpx.codes.FORBIDDEN: "The account may not do this: check GIGACHAT_SCOPE.",
}
_OF_THE_INPUT = (
    httpx.codes.BAD_REQUEST,
    httpx.codes.REQUEST_ENTITY_TOO_LARGE,
    httpx.codes.UNPROCESSABLE_ENTITY,
)
_PASSING = (httpx.codes.REQUEST_TIMEOUT, httpx.codes.TOO_MANY_REQUESTS)


def translated(error: Exception, *, what: str, billed: bool) -> VisionAssetsError:
    """Tell an error of the SDK in the project's terms.

    An answer with an error's status carries no usage, so it was not billed; where there was no answer, or one that
    cannot be read, nobody knows. The text of the SDK's own errors is not passed on where it may hold a header.

    Args:
        what: Was done.
        billed: It costs tokens.
    """
    match error:
        case sdk.ResponseError():
            return _refused(error, what)
        case httpx.LocalProtocolError():
            return ConfigurationError(
                f"The request to GigaChat cannot be written ({what}). Check GIGACHAT_CREDENTIALS: one line, no spaces."
            )
        case httpx.ConnectError() | httpx.ConnectTimeout() | httpx.PoolTimeout():
            return ProviderUnavailable(f"GigaChat cannot be reached ({what}): {_said(error)}", sent=False)
        case httpx.HTTPError():
            return ProviderUnavailable(f"GigaChat broke off ({what}): {_said(error)}", sent=billed)
        case ValidationError() | ValueError() | TypeError() | LookupError():
            return ProviderUnavailable(
                f"GigaChat's answer cannot be read ({what}): {type(error).__name__}", sent=billed
            )
    raise error


def _refused(error: sdk.ResponseError, what: str) -> VisionAssetsError:
    headers, status = error.headers or httpx.Headers(), error.status_code
    message = _message(error)
    text = f"GigaChat answered {status} ({what}, request {headers.get('x-request-id', '-')}): {message}"
    is_oauth = str(error.url).endswith(_OAUTH)
    if status in _PASSING or status >= httpx.codes.INTERNAL_SERVER_ERROR:
        return ProviderUnavailable(text, sent=False, retry_after_seconds=retry_after_seconds(headers))
    if status == httpx.codes.PAYMENT_REQUIRED:
        return ProviderBudgetGone(f"{text}. Top the account up; until then no call is made.")
    if status == httpx.codes.NOT_FOUND and what == "chat":
        if "model" in message.lower():
            return ConfigurationError(f"{text}. Check GIGACHAT_MODEL.")
        return ProviderUnavailable(text, sent=False)  # the file is gone; the next attempt uploads it anew
    if status in _OF_THE_INPUT and not is_oauth:
        too_large = status == httpx.codes.REQUEST_ENTITY_TOO_LARGE
        return InputRejected("too_large_for_provider" if too_large else "refused_by_provider", text)
    refused_us = httpx.codes.UNAUTHORIZED if is_oauth and status == httpx.codes.BAD_REQUEST else status
    return ConfigurationError(f"{text}. {_ADVICE.get(refused_us, 'Check GIGACHAT_BASE_URL and GIGACHAT_AUTH_URL.')}")


def _message(error: sdk.ResponseError) -> str:
    try:
        return str(httpx.Response(200, content=error.content or b"").json()["message"])[:300]
    except (ValueError, LookupError, TypeError):
        return (error.content or b"")[:300].decode(errors="replace")


def _said(error: Exception) -> str:
    return str(error) or type(error).__name__
