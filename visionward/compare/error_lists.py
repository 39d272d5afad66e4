"""The samples that models decide wrongly, to be looked at: misses, false alarms, changes without a label."""

from collections.abc import Sequence
from dataclasses import dataclass

from visionward.compare.datasets import Dataset
from visionward.compare.figures import SetFigures
from visionward.compare.journal import Judged
from visionward.compare.results import ModelResults
from visionward.compare.sample_text import visible
from visionward.runtime.guard.samples import Sample

# Of one list, in a report.
MAX_LISTED = 60
MAX_SKIPPED = 50


@dataclass(frozen=True)
class ListedSample:
    """A sample with every model's answer, the reference's first.

    Attributes:
        sample: the sample.
        answers: (model, answer), in the order of the figures.
    """

    sample: Sample
    answers: tuple[tuple[str, Judged], ...]

    @property
    def changed(self) -> bool:
        """Whether some model decides otherwise than the reference."""
        return any(answer.unsafe != self.answers[0][1].unsafe for _, answer in self.answers)

    @property
    def newly_wrong(self) -> bool:
        """Whether the reference is right and some other model is not."""
        return self.changed and self.answers[0][1].unsafe is self.sample.unsafe

    @property
    def tag(self) -> str:
        """What changed against the reference; empty if nothing did, or if there is no label."""
        if self.sample.unsafe is None or not self.changed:
            return ""
        if self.newly_wrong:
            return "new miss" if self.sample.unsafe else "new false alarm"
        return "corrected"

    @property
    def texts(self) -> tuple[tuple[str, str], ...]:
        """(role, text), the text made visible and cut."""
        messages = self.sample.conversation.messages
        return tuple((message.role, visible(text)) for message in messages for text in message.texts)

    def is_wrong(self, answer: Judged) -> bool:
        """Whether an answer contradicts the label."""
        return self.sample.unsafe is not None and answer.unsafe is not self.sample.unsafe

    def remark(self, answer: Judged) -> str:
        """A model's answer in a word or two."""
        if answer.no_answer:
            return "no answer"
        if not self.is_wrong(answer):
            return "unsafe" if answer.unsafe else "safe"
        return "missed" if self.sample.unsafe else "false alarm"


@dataclass(frozen=True)
class ErrorLists:
    """What to look at in a data set; samples that a candidate gets wrong and the reference right come first.

    Attributes:
        misses: unsafe samples that some model calls safe.
        false_alarms: safe samples that some model calls unsafe.
        changes: samples without a label on which the models disagree.
    """

    misses: tuple[ListedSample, ...]
    false_alarms: tuple[ListedSample, ...]
    changes: tuple[ListedSample, ...]


def compared_answers(
    figures: SetFigures, dataset: Dataset, results: Sequence[ModelResults]
) -> tuple[ListedSample, ...]:
    """The samples that all figures are about: those that every model judged."""
    judged = {result.model.name: result.judged for result in results}
    found = []
    for digest, sample in zip(dataset.digests, dataset.samples, strict=True):
        answers = [(model.name, judged[model.name].get(digest)) for model in figures.models]
        complete = tuple((name, one) for name, one in answers if one is not None and one.reason is None)
        if len(complete) == len(answers):
            found.append(ListedSample(sample, complete))
    return tuple(found)


def error_lists(samples: Sequence[ListedSample]) -> ErrorLists:
    """Sort the samples that a person should look at into lists."""

    def listed(label: bool) -> tuple[ListedSample, ...]:
        wrong = [
            one for one in samples if one.sample.unsafe is label and any(a.unsafe is not label for _, a in one.answers)
        ]
        return tuple(sorted(wrong, key=lambda one: (not one.newly_wrong, not one.changed)))

    changes = tuple(one for one in samples if one.sample.unsafe is None and one.changed)
    return ErrorLists(listed(True), listed(False), changes)
