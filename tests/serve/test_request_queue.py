"""The queue by itself, with cancellations at every moment."""

import asyncio
import random

import pytest

from visionward.serve.api_error import ApiError
from visionward.serve.request_queue import MAX_RETRY_S, RequestQueue


def test_random_cancellations_lose_no_place():
    async def go(seed):
        chance = random.Random(seed)
        queue, inside, most = RequestQueue(8), 0, 0

        async def work():
            nonlocal inside, most
            async with queue.turn():
                inside += 1
                most = max(most, inside)
                try:
                    await asyncio.sleep(chance.random() * 0.002)
                finally:
                    inside -= 1

        refused = served = cancelled = 0
        tasks = []
        for _ in range(200):
            tasks.append(asyncio.ensure_future(work()))
            for _ in range(chance.randrange(4)):
                await asyncio.sleep(0)
            if chance.random() < 0.5:
                chance.choice(tasks).cancel()
        for result in await asyncio.gather(*tasks, return_exceptions=True):
            refused += isinstance(result, ApiError)
            cancelled += isinstance(result, asyncio.CancelledError)
            served += result is None
        assert refused + cancelled + served == 200
        assert served > 0
        assert most == 1
        assert (queue.running, queue.waiting) == (0, 0)
        async with queue.turn() as waited:
            assert waited < 100

    for seed in range(20):
        asyncio.run(go(seed))


def test_a_turn_that_comes_in_the_moment_of_cancelling_is_passed_on():
    async def go():
        queue = RequestQueue(2)
        first = queue.turn()
        await first.__aenter__()

        async def work():
            async with queue.turn():
                pass

        second, third = asyncio.ensure_future(work()), asyncio.ensure_future(work())
        await asyncio.sleep(0)
        assert queue.waiting == 2
        await first.__aexit__(None, None, None)
        second.cancel()
        await asyncio.wait_for(third, 5)
        assert second.cancelled()
        assert queue.running == 0

    asyncio.run(go())


def test_how_long_to_stay_away():
    async def go():
        queue = RequestQueue(0)
        async with queue.turn():
            with pytest.raises(ApiError) as caught:
                queue.check_room()
            assert caught.value.retry_after_s == 1
            queue._average_s = 1e6
            with pytest.raises(ApiError) as caught:
                queue.check_room()
            assert caught.value.retry_after_s == MAX_RETRY_S

    asyncio.run(go())


def test_a_closed_queue():
    async def go():
        queue = RequestQueue(1)
        async with queue.turn():
            waiting = asyncio.ensure_future(queue.turn().__aenter__())
            await asyncio.sleep(0)
            queue.close()
            with pytest.raises(ApiError) as caught:
                await waiting
            assert caught.value.status == 503
        assert queue.running == 0
        with pytest.raises(ApiError, match="shutting down"):
            queue.check_room()

    asyncio.run(go())
