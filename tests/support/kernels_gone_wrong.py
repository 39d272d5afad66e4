"""What a child process of the probes of kernels and providers may do; imported by the child too."""

import os
import signal
import sys
import time

from visionward.runtime.ggml.kernel_probe import WeightResult


def crash(_kernel, _threads, sender):
    sender.send(WeightResult("Q4_0", 0.005, 100.0))
    os.kill(os.getpid(), signal.SIGSEGV)


def hang(_kernel, _threads, _sender):
    time.sleep(600)


def compute_wrongly(_kernel, _threads, sender):
    sender.send(WeightResult("Q4_0", 0.5, 100.0))
    sender.send(None)


def take_nothing(_kernel, _threads, sender):
    sender.send(WeightResult("Q4_0", None, None))
    sender.send(None)


def fail(_kernel, _threads, _sender):
    sys.stderr = None
    raise SystemExit(3)


def crash_with_a_provider(_provider, _sender):
    os.kill(os.getpid(), signal.SIGSEGV)


def hang_with_a_provider(_provider, _sender):
    time.sleep(600)
