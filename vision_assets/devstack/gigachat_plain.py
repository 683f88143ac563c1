"""The endpoints of the emulated GigaChat that bill nothing: OAuth, files, token count, models, balance.

What does not belong here: `gigachat_chat.py` and `gigachat_embeddings.py`.
"""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from pydantic import BaseModel, Field
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

from vision_assets.devstack.gigachat_access import OAuthRefused
from vision_assets.devstack.gigachat_call import Call, Refused, invalid, validated
from vision_assets.devstack.gigachat_chat import CHAT_MODELS
from vision_assets.devstack.gigachat_embeddings import EMBEDDERS
from vision_assets.devstack.gigachat_files import MAX_BYTES, TYPES, StoredFile
from vision_assets.devstack.gigachat_sight import NotAPicture, look
from vision_assets.devstack.gigachat_words import text_tokens


async def oauth(call: Call) -> Response:
    """Give an access token."""
    headers, options = call.request.headers, call.state.options
    async with _form(call) as form:
        scope = str(form.get("scope") or "")
    try:
        token = call.state.tokens.give(
            headers.get("authorization"),
            headers.get("rquid"),
            scope,
            lifetime_seconds=options.token_lifetime_seconds,
            per_second=options.oauth_per_second,
        )
    except OAuthRefused as error:
        raise Refused(error.status, str(error), body={"code": error.code, "message": str(error)}) from None
    scale = 1 if call.fault("expires_at_in_seconds") else 1000
    return JSONResponse({"access_token": token.value, "expires_at": int(token.expires_at * scale)})


@asynccontextmanager
async def _form(call: Call) -> AsyncIterator[FormData]:
    try:
        form = await call.request.form()
    except HTTPException as error:
        raise Refused(400, f"Bad request: {error.detail}") from None
    try:
        yield form
    finally:
        await form.close()


async def upload(call: Call) -> Response:
    """Keep a picture until it is deleted."""
    async with _form(call) as form:
        part = form.get("file")
        if not isinstance(part, UploadFile):
            raise Refused(400, "Bad request: there is no file")
        if form.get("purpose") != "general":
            raise invalid("purpose")
        if part.content_type not in TYPES:
            raise invalid(f"file type {part.content_type}")
        content, filename = await part.read(), part.filename or ""
    if len(content) > MAX_BYTES:
        raise Refused(413, "Payload too large")
    try:
        sight = await run_in_threadpool(look, content)
    except NotAPicture as error:
        raise invalid(f"file is not a picture of a known format: {error}") from None
    file = StoredFile(
        content=content,
        filename=filename,
        sight=sight,
        account=call.account,
        tenant=call.tenant,
        created_at=int(time.time()),
    )
    call.state.files.add(file)
    return JSONResponse(file.described())


async def list_files(call: Call) -> Response:
    """List the account's files."""
    return JSONResponse({"data": [file.described() for file in call.state.files.of(call.account)]})


async def get_file(call: Call) -> Response:
    """Describe a file."""
    return JSONResponse(_file(call).described())


async def get_content(call: Call) -> Response:
    """Give a file's bytes."""
    file = _file(call)
    return Response(file.content, media_type=file.sight.mime)


async def delete_file(call: Call) -> Response:
    """Forget a file."""
    file = _file(call)
    if call.fault("files_cannot_be_deleted"):
        raise Refused(403, "Permission denied")
    call.state.files.delete(file)
    return JSONResponse({"id": file.id, "deleted": True})


def _file(call: Call) -> StoredFile:
    if file := call.state.files.find(call.account, call.request.path_params["file_id"]):
        return file
    raise Refused(404, "No such file")


class TokensRequest(BaseModel):
    """What is to be counted."""

    model: str
    input: list[str] = Field(min_length=1)


async def count_tokens(call: Call) -> Response:
    """Count the tokens of texts."""
    request = validated(TokensRequest, call.body)
    if request.model not in CHAT_MODELS and request.model not in EMBEDDERS:
        raise Refused(404, "No such model")
    return JSONResponse(
        [{"object": "tokens", "tokens": text_tokens(text), "characters": len(text)} for text in request.input]
    )


async def list_models(_: Call) -> Response:
    """List the models."""
    data = [
        {"id": name, "object": "model", "owned_by": "salutedevices", "type": kind}
        for kind, names in (("chat", CHAT_MODELS), ("embedder", EMBEDDERS))
        for name in names
    ]
    return JSONResponse({"object": "list", "data": data})


async def balance(call: Call) -> Response:
    """Tell what is left of each chat model's tokens."""
    if call.fault("balance_forbidden"):
        raise Refused(403, "Permission denied")
    start, books = call.state.options.balance_tokens, call.state.books
    left = [{"usage": name, "value": max(0, start - books.billed_tokens(name))} for name in CHAT_MODELS]
    return JSONResponse({"balance": left})
