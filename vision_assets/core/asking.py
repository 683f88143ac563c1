"""Asking any model about a picture: which question, what it may take, and what makes an answer another one.

What is not here: the questions' words (`prompts.py`), reading replies (`replies.py`), sending anything (`clients/`).
"""

import hashlib
import json

from vision_assets.core import kind, prompts
from vision_assets.core.policy import Prompts, prompt_fingerprint
from vision_assets.core.prompts import Language, prompt
from vision_assets.core.provider_pictures import PictureLimits
from vision_assets.core.replies import SCHEMA

MAX_TOKENS = 1024
"""Of an answer. One that breaks off is asked for again with room for four times as much."""

_CHARACTERS_A_TOKEN = 3


def fingerprint(language: Language, choice: Prompts, limits: PictureLimits) -> str:
    """Hash all that shapes the answers to a tenant's questions, but for the model.

    Args:
        choice: Which picture is asked what; only the prompts that it may choose count.
        limits: To which pictures are fitted before they are sent.
    """
    parts = [
        prompt_fingerprint(language, choice),
        {preset: prompts.fingerprint(preset, language) for preset in choice.choices()},
        kind.VERSION,
        [sorted(limits.mimes), limits.max_bytes, limits.max_pixels],
    ]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def estimated_tokens(language: Language, choice: Prompts, *, picture_tokens: int) -> int:
    """Bound one question with its picture and its answer. A question that must be put twice takes more.

    Args:
        choice: The longest of the prompts that it may choose counts.
        picture_tokens: Of one picture at most.
    """
    asked = [prompt(preset, language) for preset in choice.choices()]
    longest = max(len(one.system + one.user) for one in asked)
    return picture_tokens + MAX_TOKENS + (longest + len(str(SCHEMA))) // _CHARACTERS_A_TOKEN
