"""Ways to keep a token budget in Redis, as exact as ours: a Lua script that checks and reserves, and one that settles.

What is not here: the server's settings (`ledger.py`). A sweeper would go through `expiring`; it is not measured.
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

from redis.asyncio import ConnectionPool, Redis

from benchmarks._budget import CALLS_AT_ONCE, PLENTY_TOKENS, Servers, make_call
from vision_assets.core.budget import HOLD_LIFE
from vision_assets.core.coalescing import Coalescer
from vision_assets.core.tenants import TenantId

# A scope's books are one hash: held and used tokens of each day and month, and the calls under way. A hold is a string
# that says what to give back and where; `expiring` orders the holds for a sweeper.
_REDIS_RESERVE = """
local tokens, day, month = tonumber(ARGV[1]), ARGV[2], ARGV[3]
if redis.call('EXISTS', KEYS[3]) == 1 then return 'held' end
local books = {}
for scope = 1, 2 do
  local b = redis.call('HMGET', KEYS[scope],
    'used:' .. day, 'held:' .. day, 'used:' .. month, 'held:' .. month, 'calls')
  for i = 1, 5 do b[i] = tonumber(b[i] or 0) end
  local limits = 2 + scope * 3
  if b[1] + b[2] + tokens > tonumber(ARGV[limits]) then return scope == 1 and 'daily_limit' or 'global_limit' end
  if b[3] + b[4] + tokens > tonumber(ARGV[limits + 1]) then return scope == 1 and 'monthly_limit' or 'global_limit' end
  if b[5] + 1 > tonumber(ARGV[limits + 2]) then return 'rate_limited' end
  books[scope] = b
end
for scope = 1, 2 do
  local b = books[scope]
  redis.call('HSET', KEYS[scope], 'held:' .. day, b[2] + tokens, 'held:' .. month, b[4] + tokens, 'calls', b[5] + 1)
end
redis.call('SET', KEYS[3], tokens .. ' ' .. day .. ' ' .. month)
redis.call('ZADD', KEYS[4], ARGV[4], KEYS[3])
return 'held'
"""
_REDIS_SETTLE = """
local hold = redis.call('GETDEL', KEYS[3])
if not hold then return 0 end
redis.call('ZREM', KEYS[4], KEYS[3])
local tokens, day, month = string.match(hold, '(%S+) (%S+) (%S+)')
local actual = tonumber(ARGV[1])
for scope = 1, 2 do
  local b = redis.call('HMGET', KEYS[scope],
    'used:' .. day, 'held:' .. day, 'used:' .. month, 'held:' .. month, 'calls')
  redis.call('HSET', KEYS[scope],
    'used:' .. day, (b[1] or 0) + actual, 'held:' .. day, b[2] - tokens,
    'used:' .. month, (b[3] or 0) + actual, 'held:' .. month, b[4] - tokens, 'calls', b[5] - 1)
end
return 1
"""


@dataclass(slots=True)
class RedisLua:
    """Check and reserve in one script, settle in another: exact, one round trip each."""

    redis: "Redis"
    reserve_sha: str
    settle_sha: str
    day_tokens: int = PLENTY_TOKENS

    @classmethod
    @asynccontextmanager
    async def open(cls, servers: Servers) -> "AsyncIterator[RedisLua]":
        """Connect, and load the scripts."""
        pool = ConnectionPool.from_url(servers.redis_url)  # one for each caller: waiting for one costs redis-py more
        async with Redis.from_pool(pool) as redis:
            yield cls(redis, await redis.script_load(_REDIS_RESERVE), await redis.script_load(_REDIS_SETTLE))

    def limit(self, day_tokens: int) -> None:
        self.day_tokens = day_tokens

    async def pay(self, tenant_id: TenantId, estimated_tokens: int, actual_tokens: int, call_seconds: float) -> bool:
        now = datetime.now(UTC)
        keys = (f"budget:{tenant_id}", "budget:all", f"hold:{uuid4()}", "expiring")
        arguments = (
            *(estimated_tokens, f"{now:%Y-%m-%d}", f"{now:%Y-%m}", (now + HOLD_LIFE).timestamp()),
            *(self.day_tokens, PLENTY_TOKENS, CALLS_AT_ONCE),
            *(PLENTY_TOKENS, PLENTY_TOKENS, CALLS_AT_ONCE),
        )
        if await self._run(self.reserve_sha, keys, arguments) != b"held":
            return False
        await make_call(call_seconds)
        assert await self._run(self.settle_sha, keys, (actual_tokens,)) == 1
        return True

    async def _run(self, script: str, keys: Sequence[str], arguments: Sequence[Any]) -> Any:
        return await self.redis.evalsha(script, len(keys), *keys, *arguments)


@dataclass(slots=True)
class RedisCoalesced(RedisLua):
    """The same scripts behind our coalescer: what the process asks at once goes to Redis in one pipeline."""

    coalescer: Coalescer[tuple[Any, ...], Any] = field(init=False)

    def __post_init__(self) -> None:
        self.coalescer = Coalescer(self._run_all)

    async def _run_all(self, commands: Sequence[tuple[Any, ...]]) -> Sequence[Any]:
        pipeline = self.redis.pipeline(transaction=False)
        for command in commands:
            pipeline.evalsha(*command)
        return await pipeline.execute()

    async def _run(self, script: str, keys: Sequence[str], arguments: Sequence[Any]) -> Any:
        return await self.coalescer.submit((script, len(keys), *keys, *arguments))
