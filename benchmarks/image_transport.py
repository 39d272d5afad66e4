"""How an image gets into a guard's process: through the pipe, through named shared memory, or as GuardProcess does it.

    python -m benchmarks.image_transport [--rounds 5]

A 12-megapixel photograph as JPEG bytes and as a uint8 array is sent to a child process that reads every byte of it.
Milliseconds per image, median (lowest to highest), interleaved.
"""

import os
import pickle
import statistics
import subprocess
import time
from multiprocessing import shared_memory
from typing import Any

import click
import numpy as np

from visionward.machine.python_process import Connection, PythonProcess
from visionward.runtime.process.shared_arguments import Packed, SharedFile

PIXELS = (3000, 4000, 3)
JPEG_BYTES = 5_000_000


def receive(descriptor: int, connection: Connection) -> None:
    """The child: take an image in any of the three ways, and answer with the sum of its bytes."""
    connection.send("ready")
    while True:
        way, message = connection.receive()
        if way == "pipe":
            image = pickle.loads(message)  # noqa: S301 - our own process wrote it
        elif way == "named":
            memory = shared_memory.SharedMemory(message[0])
            image = np.frombuffer(memory.buf, np.uint8, message[1])
        else:
            image = message.unpack(descriptor)["image"]
        data = np.frombuffer(image, np.uint8) if isinstance(image, bytes) else image
        connection.send(int(data.sum(dtype=np.int64)))
        if way == "named":
            del image, data
            memory.close()


def send(way: str, image: Any, child: PythonProcess, shared: SharedFile) -> None:
    """The parent: send an image and wait for the answer."""
    if way == "pipe":
        child.send((way, pickle.dumps(image, pickle.HIGHEST_PROTOCOL)))
        child.receive(60)
    elif way == "named":
        flat = np.frombuffer(image, np.uint8) if isinstance(image, bytes) else image.reshape(-1)
        memory = shared_memory.SharedMemory(create=True, size=flat.nbytes)
        np.frombuffer(memory.buf, np.uint8, flat.nbytes)[:] = flat
        child.send((way, (memory.name, flat.nbytes)))
        child.receive(60)
        memory.close()
        memory.unlink()
    else:
        child.send((way, Packed.pack({"image": image}, shared)))
        child.receive(60)
        shared.clear()


@click.command()
@click.option("--rounds", default=5, show_default=True)
def main(rounds: int) -> None:
    """Measure and print."""
    rng = np.random.default_rng(0)
    images = {"5 MB of bytes": rng.bytes(JPEG_BYTES), "36 MB array": rng.integers(0, 255, PIXELS, np.uint8)}
    shared = SharedFile()
    # The child imports this module by its name.
    from benchmarks import image_transport  # noqa: PLC0415

    child = PythonProcess(image_transport.receive, (shared.descriptor,), subprocess.DEVNULL, (shared.descriptor,))
    child.receive(60)
    times: dict[tuple[str, str], list[float]] = {}
    for number in range(rounds + 1):
        for name, image in images.items():
            for way in ("pipe", "named", "shared file"):
                started = time.perf_counter()
                send(way, image, child, shared)
                if number:
                    times.setdefault((name, way), []).append((time.perf_counter() - started) * 1000)
    child.close()
    print(f"load average {os.getloadavg()[0]:.1f}")
    for (name, way), found in times.items():
        print(f"{name:14} {way:12} {statistics.median(found):7.1f} ms ({min(found):.1f} to {max(found):.1f})")


if __name__ == "__main__":
    main()
