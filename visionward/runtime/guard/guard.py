"""The guard: judges a conversation and its images."""

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from os import PathLike
from typing import TYPE_CHECKING, Any

from visionward.errors import ConversationError, PolicyError
from visionward.names import DEFAULT_FRAMES, DEFAULT_THRESHOLD, ImitationTreatment, SystemTreatment
from visionward.progress import OnProgress
from visionward.runtime.cancellation import CancelToken
from visionward.runtime.engine import Engine
from visionward.runtime.evaluation import milliseconds_since
from visionward.runtime.guard.answer import AnswerReader
from visionward.runtime.guard.chat_template import ChatTemplate
from visionward.runtime.guard.conversation import Conversation
from visionward.runtime.guard.derived_calls import DerivedCalls
from visionward.runtime.guard.imitation import readings
from visionward.runtime.guard.judgement import Observer, Question, judge
from visionward.runtime.guard.policy import DEFAULT_POLICY, Policy
from visionward.runtime.guard.two_looks import look_twice
from visionward.runtime.guard.verdict import Verdict, combine
from visionward.runtime.images.images import ImageSource
from visionward.runtime.images.pictures import check_frames
from visionward.runtime.images.preprocess import Tiles

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from visionward.runtime.engine_options import EngineKeywords


class Guard(DerivedCalls):
    """A content-safety classifier on a GGUF pair.

    For example:

        with Guard.load("guard-text-Q4_K_M.gguf", "mmproj-guard-Q8_0.gguf") as guard:
            verdict = guard.classify(image="photo.jpg", prompt="What is in this picture?")
            print(verdict.verdict, verdict.score, [category.code for category in verdict.categories])

    Threads may share a guard. Their calls are executed one after the other.
    """

    def __init__(self, engine: Engine, *, load_ms: float = 0.0) -> None:
        self.engine = engine
        self._load_ms = load_ms
        self._template = ChatTemplate(engine.model.chat_template, special_tokens=engine.model.special_tokens)
        self._answer = AnswerReader(engine.model)

    @classmethod
    def load(
        cls,
        text_gguf: str | PathLike[str],
        mmproj_gguf: str | PathLike[str],
        *,
        on_progress: OnProgress | None = None,
        **options: "Unpack[EngineKeywords]",
    ) -> "Guard":
        """Load a GGUF pair.

        Args:
            text_gguf: the text file, written by `visionward convert`.
            mmproj_gguf: the mmproj file of the same conversion, of any type.
            on_progress: called while files are checked, on the engine's own thread.
            options: the fields of ``EngineOptions``, as keywords: ``threads``, ``gpu_layers``, ``n_ctx``,
                ``vision_backend``, ``memory_limit``, ``image_cache_bytes`` and others.

        Raises:
            ModelFileError: a file is missing, damaged or of another type, or the files do not belong together.
            ComputeError: there is not enough memory.
            NativeLibraryError: the installed llama.cpp is not a version that visionward was tested with.
            OptionError: an option is out of range or unknown, or two exclude each other.
        """
        start = time.perf_counter()
        engine = Engine(text_gguf, mmproj_gguf, on_progress=on_progress, **options)
        try:
            guard = cls(engine)
        except BaseException:
            engine.close()
            raise
        guard._load_ms = milliseconds_since(start)
        return guard

    @classmethod
    def demo(cls, *, on_progress: OnProgress | None = None, **options: "Unpack[EngineKeywords]") -> "Guard":
        """Load the packaged demonstration guard, a toy model for checking the installation, not a safety classifier.

        It is converted into the user's cache folder at first use, which takes seconds.

        Args:
            on_progress: see `load`.
            options: see `load`.

        Raises:
            VisionwardError: the model cannot be converted, or what `load` raises.
        """
        from visionward.convert.demo_guard import demo_pair  # noqa: PLC0415 - conversion is needed for this guard alone

        pair = demo_pair()
        return cls.load(pair.text, pair.mmproj, on_progress=on_progress, **options)

    def classify(
        self,
        conversation: Conversation | Sequence[Mapping[str, Any]] | None = None,
        *,
        image: ImageSource | None = None,
        prompt: str | None = None,
        response: str | None = None,
        policy: Policy | Mapping[str, Any] | None = None,
        exclude: Iterable[str] = (),
        threshold: float = DEFAULT_THRESHOLD,
        category_scores: bool = False,
        frames: int = DEFAULT_FRAMES,
        imitation: ImitationTreatment = "judge",
        allow_files: bool = True,
        merge_turns: bool = False,
        system: SystemTreatment = "refuse",
        observe: Observer | None = None,
        on_progress: OnProgress | None = None,
        cancel: CancelToken | None = None,
    ) -> Verdict:
        """Judge the last message of a conversation.

        Give either a conversation (OpenAI-style messages, with images as parts), or image, prompt and response. If the
        last message is the user's, the prompt is classified; if it is the assistant's, the response is. A conversation
        with several images is judged once per image, and an image with several pictures once per picture: its frames,
        and each transparent frame on white and on black. Unsafe wins.

        Args:
            conversation: messages, or a Conversation.
            image: a path, bytes, PIL image or uint8 array.
            prompt: the user's text.
            response: the assistant's text. If given, it is what is judged.
            policy: the categories, as a Policy or a mapping from codes to names; MLCommons S1 to S13 by default.
            exclude: codes of the policy to leave out.
            threshold: the verdict is unsafe if the score is at least this.
            category_scores: whether to score the categories for a safe verdict too, which takes another decode.
            frames: judge at most so many frames of an animation, pages of a document or sizes of an icon: the first,
                the last, and evenly spaced ones between. The verdict says how many there are. The time is proportional.
            imitation: what to do with text that imitates the prompt's own markers, such as ``User:``. A warning
                names the markers in both cases. ``judge`` also judges the text without the markers and passage by
                passage, and unsafe wins (docs/imitation.md). ``warn`` judges it only as written.
            allow_files: whether a path or ``file:`` URL may name an image. A server that judges messages from others
                passes False; otherwise they could have its files opened. Data URLs, bytes, PIL images and arrays are
                still allowed.
            merge_turns: join consecutive messages of one role into one message. Otherwise they are an error.
            system: ``refuse`` raises an error for a system or developer message. ``drop`` leaves it out unread, and
                the verdict has a warning.
            observe: for comparisons: called with the logits after the prompt, once per judged picture, but not for
                other readings.
            on_progress: called for each layer of the tower and each ubatch of a prompt, on the engine's own thread.
            cancel: ends the classification from another thread: within one layer, or at once while it waits for others.

        Raises:
            ImageError: an image cannot be used. There is never a verdict on the text alone instead.
            ConversationError: the conversation cannot be rendered.
            PolicyError: a category is unknown or malformed, the threshold is not a probability, or the guard's band
                (``EngineOptions.band``) is for other ones.
            ValueError: ``frames``, ``imitation`` or ``system`` has an invalid value.
            ContextLengthError: the prompt is longer than the context.
            ClassificationCancelledError: ``cancel`` was cancelled before the verdict was complete.
            ComputeError: a computation failed.
        """
        if not 0 <= threshold <= 1:
            raise PolicyError(f"the threshold is {threshold}, expected a number between 0 and 1")
        check_frames(frames)
        if conversation is None:
            whole = Conversation.from_prompt(prompt, response, image)
        elif image is not None or prompt is not None or response is not None:
            raise ConversationError("give either a conversation, or image, prompt and response")
        elif isinstance(conversation, Conversation):
            whole = conversation
        else:
            whole = Conversation.from_messages(
                conversation, allow_files=allow_files, merge_turns=merge_turns, system=system
            )
        if not allow_files and any(isinstance(source, str | PathLike) for source in whole.images):
            raise ConversationError("an image is named by a path, which is not allowed here: give its bytes")
        in_force = self._policy(policy, exclude)

        def look(max_tiles: int | None, observe: Observer | None) -> Verdict:
            verdicts = []
            for one in whole.per_image():
                started = time.perf_counter()
                question = Question(
                    conversation=one,
                    policy=in_force,
                    prompts=readings(self._template, one, in_force, imitation),
                    tiles=None,
                    threshold=threshold,
                    category_scores=category_scores,
                    started=started,
                    preprocess_ms=0.0,
                    load_ms=self._load_ms,
                    observe=observe,
                    on_progress=on_progress,
                )
                if one.images:
                    verdicts.append(self._judge_image(question, frames, max_tiles, cancel))
                else:
                    verdicts.append(self._judge(question, None, cancel))
            return combine(verdicts)

        band = self.engine.options.band
        if band is None:
            return look(None, observe)
        band.check_verdict(threshold, in_force.digest)
        return look_twice(look, band, observe)

    def _judge_image(
        self, question: Question, frames: int, max_tiles: int | None, cancel: CancelToken | None
    ) -> Verdict:
        """Judge every picture of the conversation's image."""
        pictures = self.engine.pictures(question.conversation.images[0], frames, max_tiles)
        verdicts = []
        for tiles in pictures:
            verdicts.append(self._judge(question, tiles, cancel))
            question = replace(question, started=time.perf_counter())
        whole = combine(verdicts)
        return replace(whole, frames=pictures.frames, warnings=(*whole.warnings, *pictures.notes))

    def _judge(self, question: Question, tiles: Tiles | None, cancel: CancelToken | None) -> Verdict:
        preprocess_ms = milliseconds_since(question.started)

        def job() -> Verdict:
            # The time that this call waited for others does not count.
            started = time.perf_counter() - preprocess_ms / 1000
            ready = replace(question, tiles=tiles, started=started, preprocess_ms=preprocess_ms)
            return judge(ready, self.engine, self._answer)

        return self.engine.run(job, cancel)

    @staticmethod
    def _policy(policy: Policy | Mapping[str, Any] | None, exclude: Iterable[str]) -> Policy:
        if policy is None:
            policy = DEFAULT_POLICY
        elif not isinstance(policy, Policy):
            policy = Policy.from_mapping(policy)
        return policy.exclude(exclude)

    @property
    def is_available(self) -> bool:
        """Whether calls are served: until ``close``."""
        return not self.engine.closed

    def close(self) -> None:
        """Free the model. Calling it again has no effect."""
        self.engine.close()

    def __repr__(self) -> str:
        engine = self.engine
        state = "closed" if engine.closed else "open"
        return (
            f"<Guard {engine.model.path.name}, {engine.mmproj_path.name}, device {engine.device_name}, "
            f"vision backend {engine.vision_backend}, {state}>"
        )
