"""A callback and log handler that remembers what it was told."""

import logging


class Recorder(logging.Handler):
    """Remembers what it was told: where each model began, how many samples followed, and what was logged."""

    def __init__(self):
        super().__init__()
        self.begun, self.advanced, self.notes = [], 0, []
        logging.getLogger("visionward.compare").addHandler(self)

    def __call__(self, progress):
        assert progress.unit == "samples"
        if self.begun and self.begun[-1][0] == progress.stage:
            self.advanced += 1
        else:
            self.begun.append((progress.stage, progress.done, progress.total))

    def emit(self, record):
        self.notes.append(record.getMessage())
