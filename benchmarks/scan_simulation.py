"""A simulation of a scan on 100 actors, slow ones and lost ones among them: hours, and images that are judged again.

    python benchmarks/scan_simulation.py

A file of 64 samples is the unit of work, as in ``visionward scan --ray``. An actor that is lost loses the file that it
is at, and another actor takes its place after the time that a node and a model take to start. Times per image are
log-normal around the measured one. The engine gives the next file to the actor that is free first, as Ray Data does.
"""

import heapq
import random
from dataclasses import dataclass

ACTORS, IMAGES, FILE = 100, 1_000_000, 64
# Seconds per image of one tile on an H200 (benchmarks/RESULTS.md), and its spread.
IMAGE_S, SPREAD = 0.233, 0.5
START_S = 300.0
ROUNDS = 5


@dataclass(frozen=True)
class Trouble:
    """What goes wrong.

    Attributes:
        name: in words.
        slow: share of actors that are slow.
        factor: how many times as long they take.
        mean_life_s: mean time until an actor is lost; None for never.
    """

    name: str
    slow: float = 0.0
    factor: float = 1.0
    mean_life_s: float | None = None


def simulate(trouble: Trouble, seed: int) -> tuple[float, float, int]:
    """Hours until the last file is finished, share of images judged again, and actors lost."""
    rng = random.Random(seed)  # noqa: S311 - a simulation
    mean = IMAGE_S * FILE
    left = IMAGES // FILE
    again = lost = 0
    end = 0.0
    # (time when it is free, time when it is lost, factor)
    actors = []
    for number in range(ACTORS):
        life = rng.expovariate(1 / trouble.mean_life_s) if trouble.mean_life_s else float("inf")
        actors.append((0.0, life, trouble.factor if number < trouble.slow * ACTORS else 1.0))
    heapq.heapify(actors)
    while left:
        free, life, factor = heapq.heappop(actors)
        # The mean of 64 log-normal times is nearly normal.
        done = free + mean * factor * max(0.1, rng.gauss(1.0, SPREAD / FILE**0.5))
        if done > life:
            lost += 1
            again += FILE * (life - free) / (done - free)
            start = life + START_S
            heapq.heappush(actors, (start, start + rng.expovariate(1 / trouble.mean_life_s), factor))
        else:
            left -= 1
            end = max(end, done)
            heapq.heappush(actors, (done, life, factor))
    return end / 3600, again / IMAGES, lost


def main() -> None:
    """Print a table."""
    ideal = IMAGES * IMAGE_S / ACTORS / 3600
    print(f"{ACTORS} actors, {IMAGES:,} images of {IMAGE_S} s, files of {FILE}: {ideal:.3f} hours at best")
    print("| trouble | hours | more than the sum of the actors' rates allows | judged again | actors lost |")
    print("|---|---|---|---|---|")
    for trouble in (
        Trouble("none"),
        Trouble("5 % of actors take 3 times as long", 0.05, 3.0),
        Trouble("5 % take 10 times as long", 0.05, 10.0),
        Trouble("an actor is lost after 4 hours on average", mean_life_s=4 * 3600),
        Trouble("an actor is lost after 1 hour on average", mean_life_s=3600),
        Trouble("5 % take 3 times as long, and lost after 1 hour", 0.05, 3.0, 3600),
    ):
        rounds = [simulate(trouble, seed) for seed in range(ROUNDS)]
        hours, again, lost = (sum(values) / ROUNDS for values in zip(*rounds, strict=True))
        rate = 1 - trouble.slow + trouble.slow / trouble.factor
        longer = f"{100 * (hours * rate / ideal - 1):.1f} %"
        print(f"| {trouble.name} | {hours:.3f} | {longer} | {100 * again:.3f} % | {lost:.0f} |")


if __name__ == "__main__":
    main()
