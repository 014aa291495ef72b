"""Receives what is large: a block is written (and hashed) in a thread while the next one arrives.

Several uploads at once take several cores, and none takes more memory than two blocks.
"""

import asyncio
from collections.abc import AsyncIterator, Callable

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request

_BLOCK_BYTES = 4 * 1024 * 1024


async def receive(request: Request, write: Callable[[bytearray], object]) -> None:
    """Hand the body to *write*, block by block."""
    writing: asyncio.Future[object] | None = None
    try:
        async for block in _blocks(request):
            if writing:
                await writing
            writing = asyncio.ensure_future(run_in_threadpool(write, block))
    finally:
        if writing:
            await writing


async def _blocks(request: Request) -> AsyncIterator[bytearray]:
    block = bytearray()
    async for chunk in request.stream():
        block += chunk
        if len(block) >= _BLOCK_BYTES:
            yield block
            block = bytearray()
    if block:
        yield block
