"""The vision step as the original had it: one picture after the other, over the same clients as ours.

Its quota check and its `+ size` are safe for one worker only, and it neither decodes a picture nor holds its tokens.
What is not here: who compares it (`pipeline.py`).
"""

import gzip
import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from vision_assets.clients.gigachat import GigaChat
from vision_assets.clients.postgres import Database
from vision_assets.clients.s3 import S3Bucket
from vision_assets.core.asking import MAX_TOKENS
from vision_assets.core.prompts import Language, Preset, prompt
from vision_assets.core.replies import SCHEMA, read_reply
from vision_assets.core.tenants import TenantId
from vision_assets.core.vision import SCHEMA_VERSION, vision_key

ESTIMATED_TOKENS = 1792
DAY_TOKENS = 10**12
TENANT_BYTES = 2**40

TABLES = """
CREATE TABLE sequential_usage (
    tenant_id uuid, content_type text, total_bytes bigint NOT NULL, objects_count bigint NOT NULL,
    PRIMARY KEY (tenant_id, content_type));
CREATE TABLE sequential_budget (
    tenant_id uuid, day date, used_tokens bigint NOT NULL, PRIMARY KEY (tenant_id, day));
"""
_MEDIA = """
SELECT sha256, mime, s3_key FROM media_objects WHERE tenant_id = $1
ORDER BY first_post_seq, first_position LIMIT $2
"""
_USED_TOKENS = "SELECT used_tokens FROM sequential_budget WHERE tenant_id = $1 AND day = $2"
_USED_BYTES = "SELECT coalesce(sum(total_bytes), 0) FROM sequential_usage WHERE tenant_id = $1"
_ADD_BYTES = """
INSERT INTO sequential_usage AS u VALUES ($1, 'vision', $2, 1) ON CONFLICT (tenant_id, content_type)
DO UPDATE SET total_bytes = u.total_bytes + excluded.total_bytes, objects_count = u.objects_count + 1
"""
_ADD_TOKENS = """
INSERT INTO sequential_budget AS b VALUES ($1, $2, $3) ON CONFLICT (tenant_id, day)
DO UPDATE SET used_tokens = b.used_tokens + excluded.used_tokens
"""


@dataclass(frozen=True, slots=True)
class SequentialPass:
    """One pass over pictures of a tenant."""

    tenant_id: TenantId
    model: str
    api: GigaChat
    bucket: S3Bucket
    database: Database

    async def analyse_media(self, *, limit: int) -> int:
        """Give the first pictures a result; tells how many were looked at."""
        media = await self.database.pool.fetch(_MEDIA, self.tenant_id, limit)
        return sum([await self._analyse(**medium) for medium in media])

    async def _analyse(self, sha256: str, mime: str, s3_key: str) -> bool:
        key = vision_key(self.tenant_id, sha256, provider="gigachat", model=self.model, schema_version=SCHEMA_VERSION)
        if await self.bucket.head(key) is not None:
            return False
        pool, today = self.database.pool, datetime.now(UTC).date()
        used_tokens = await pool.fetchval(_USED_TOKENS, self.tenant_id, today) or 0
        if used_tokens + ESTIMATED_TOKENS > DAY_TOKENS:
            return False
        content = await self.bucket.get(s3_key)
        assert content is not None, f"{s3_key} is not in S3"
        result, tokens = await self._ask(content, mime)
        body = gzip.compress(json.dumps({"sha256": sha256, **result}, ensure_ascii=False).encode())
        if await pool.fetchval(_USED_BYTES, self.tenant_id) + len(body) <= TENANT_BYTES:
            await self.bucket.put(key, body, mime="application/json", encoding="gzip")
            await pool.execute(_ADD_BYTES, self.tenant_id, len(body))
        await pool.execute(_ADD_TOKENS, self.tenant_id, today, tokens)
        return True

    async def _ask(self, content: bytes, mime: str) -> tuple[dict[str, Any], int]:
        asked = prompt(Preset.GENERAL, Language.RU)
        async with self.api.uploaded(content, mime=mime) as file_id:
            completion = await self.api.chat(
                self.tenant_id,
                {
                    "model": self.model,
                    "temperature": 0.1,
                    "max_tokens": MAX_TOKENS,
                    "messages": [
                        {"role": "system", "content": asked.system},
                        {"role": "user", "content": asked.user, "attachments": [file_id]},
                    ],
                    "response_format": {"type": "json_schema", "schema": dict(SCHEMA), "strict": True},
                },
            )
        seen = read_reply(completion.choices[0].message.content).seen
        return seen.model_dump(mode="json"), completion.usage.total_tokens
