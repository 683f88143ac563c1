"""Embeddings of the emulated GigaChat: the same text always has the same vector, and texts that share words are near.

What does not belong here: search.
"""

import hashlib
import re
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, Field
from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse, Response

from vision_assets.devstack.gigachat_books import Bill, Usage
from vision_assets.devstack.gigachat_call import Call, Refused, validated
from vision_assets.devstack.gigachat_words import text_tokens

_MAX_TEXTS = 100
_NORM = 29.0
_WORD = re.compile(r"\w+")


@dataclass(frozen=True, slots=True)
class Embedder:
    """A model that makes vectors.

    Attributes:
        context_tokens: The longest text.
    """

    dimensions: int
    context_tokens: int


EMBEDDERS = {"Embeddings": Embedder(1024, 512), "EmbeddingsGigaR": Embedder(2560, 4096)}


class EmbeddingsRequest(BaseModel):
    """What is to be embedded."""

    model: str
    input: list[str] | str = Field(min_length=1)


async def embeddings(call: Call) -> Response:
    """Answer with vectors and bill them.

    Raises:
        Refused: It is not billed.
    """
    request = validated(EmbeddingsRequest, call.body)
    embedder = EMBEDDERS.get(request.model)
    if embedder is None:
        raise Refused(404, "No such model")
    texts = [request.input] if isinstance(request.input, str) else request.input
    if len(texts) > _MAX_TEXTS:
        raise Refused(413, "Payload too large")
    tokens = [text_tokens(text) for text in texts]
    if max(tokens) > embedder.context_tokens:
        raise Refused(413, "Tokens limit exceeded")
    vectors = await run_in_threadpool(lambda: [vector(text, request.model).tolist() for text in texts])
    data = [
        {"object": "embedding", "index": index, "embedding": values, "usage": {"prompt_tokens": count}}
        for index, (values, count) in enumerate(zip(vectors, tokens, strict=True))
    ]
    if call.fault("embeddings_shuffled"):
        data = data[1::2] + data[::2]
    usage = Usage(sum(tokens), 0, sum(tokens))
    bill = Bill(request_id=call.request_id, tenant=call.tenant, kind="embeddings", model=request.model, usage=usage)
    call.state.books.bills.append(bill)
    return JSONResponse({"object": "list", "model": request.model, "data": data})


def vector(text: str, model: str) -> NDArray[np.float64]:
    """Sum a vector for each word of a text, and scale it to a norm of about 29, as the real ones have."""
    found = _WORD.findall(text.lower()) or [text]
    total = np.sum([_word_vector(word, model) for word in found], axis=0)
    norm = _NORM + _seed(text) % 100 / 100 - 0.5
    return np.asarray(np.round(total / np.linalg.norm(total) * norm, 6))


@lru_cache(maxsize=4096)
def _word_vector(word: str, model: str) -> NDArray[np.float64]:
    return np.random.default_rng(_seed(f"{model} {word}")).normal(size=EMBEDDERS[model].dimensions)


def _seed(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")
