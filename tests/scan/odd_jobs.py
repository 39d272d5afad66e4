"""Functions that stand in for the main function of a scan's processes, which import them from here."""

import os

from visionward.scan import child


def serve_nothing(options, connection):
    """Ends at once."""


def serve_and_die(options, connection):
    """A sample with "die" in its prompt ends the process."""
    judge = child._judge

    def judge_or_die(worker, task, connection):
        if any(getattr(part, "text", None) == "die" for part in task.sample.conversation.messages[0].parts):
            os.kill(os.getpid(), 9)
        judge(worker, task, connection)

    child._judge = judge_or_die
    child.serve_tasks(options, connection)
