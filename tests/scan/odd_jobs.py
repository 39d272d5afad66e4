"""Functions that stand in for the main function of a scan's processes, which import them from here."""

import os
import time

from visionward.scan import child, pool
from visionward.scan.shard_actor import ShardActor


def serve_nothing(options, connection):
    """Ends at once."""


def serve_and_die(options, connection):
    """A sample whose prompt is "die" ends the process, and one whose prompt is "hang" stops it."""
    judge = child._judge

    def judge_or_die(worker, task, connection):
        texts = [getattr(part, "text", None) for part in task.sample.conversation.messages[0].parts]
        if "die" in texts:
            os.kill(os.getpid(), 9)
        if "hang" in texts:
            time.sleep(3600)
        judge(worker, task, connection)

    child._judge = judge_or_die
    child.serve_tasks(options, connection)


class OddActor(ShardActor):
    """An actor whose process is ``serve_and_die``."""

    def __init__(self, *arguments):
        pool.serve_tasks = serve_and_die
        super().__init__(*arguments)
