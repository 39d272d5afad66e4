"""The guard: an image and a conversation go in, a verdict comes out."""

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from os import PathLike
from types import TracebackType
from typing import TYPE_CHECKING, Any

from visionward.errors import ConversationError, PolicyError
from visionward.names import DEFAULT_FRAMES, DEFAULT_THRESHOLD, ImitationTreatment
from visionward.progress import OnProgress
from visionward.runtime.cancellation import CancelToken
from visionward.runtime.engine import Engine
from visionward.runtime.evaluation import milliseconds_since
from visionward.runtime.guard.answer import AnswerReader
from visionward.runtime.guard.chat_template import ChatTemplate
from visionward.runtime.guard.conversation import Conversation
from visionward.runtime.guard.imitation import readings
from visionward.runtime.guard.judgement import Observer, Question, judge
from visionward.runtime.guard.policy import DEFAULT_POLICY, Policy
from visionward.runtime.guard.verdict import Verdict, combine
from visionward.runtime.images.images import ImageSource
from visionward.runtime.images.pictures import check_frames
from visionward.runtime.images.preprocess import Tiles

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from visionward.runtime.engine_options import EngineKeywords


class Guard:
    """A content-safety classifier on a GGUF pair.

    Example::

        with Guard.load("guard-text-Q4_K_M.gguf", "mmproj-guard-Q8_0.gguf") as guard:
            verdict = guard.classify(image="photo.jpg", prompt="What is on this picture?")
            print(verdict.verdict, verdict.score, [category.code for category in verdict.categories])

    Threads may share a guard: their calls take turns.
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
            text_gguf: the text file, as `visionward convert` wrote it.
            mmproj_gguf: the mmproj file of the same conversion, of any type.
            on_progress: called while files are checked, on the engine's own thread.
            options: the fields of ``EngineOptions``, as keywords: ``threads``, ``gpu_layers``, ``n_ctx``,
                ``vision_backend``, ``memory_limit``, ``image_cache_bytes`` and others.

        Raises:
            ModelFileError: if a file is missing, damaged or of another kind, or the files do not belong together.
            ComputeError: if memory does not suffice.
            NativeLibraryError: if the installed llama.cpp is not a version that visionward was tested with.
            ValueError: if an option is out of range or unknown.
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
        observe: Observer | None = None,
        on_progress: OnProgress | None = None,
        cancel: CancelToken | None = None,
    ) -> Verdict:
        """Judge the last message of a conversation.

        Either a conversation is given (OpenAI-style messages, images as parts of them), or image, prompt and response.
        The last message decides: prompt classification where it is the user's, response classification where it is
        the assistant's. A conversation with several images is judged once for each, and unsafe wins. So is an image
        that shows several pictures: its frames, and where it is transparent each of them on white and on black.

        Args:
            conversation: messages, or a Conversation.
            image: a path, bytes, PIL image or uint8 array.
            prompt: what the user said.
            response: what the assistant answered; then the answer is judged.
            policy: the categories in force, as a Policy or a mapping of codes to names; MLCommons S1-S13 unless given.
            exclude: codes of the policy that are not in force.
            threshold: the verdict is unsafe from this score on.
            category_scores: score the categories for a safe verdict too, which costs a decode.
            frames: the most to judge of an animation, of a document's pages or an icon's sizes: the first, the last,
                and evenly between; the verdict says of how many. More take as much longer.
            imitation: what becomes of text that imitates the prompt's own marks, such as ``User:``. The verdict's
                warnings name it. ``judge``: it is judged in other readings too, without those marks and passage by
                passage, and unsafe wins (docs/imitation.md). ``warn``: it is judged only as it stands.
            allow_files: whether images may be named by path or ``file:`` URL. A server that judges what others send
                says no, or anyone could have its files opened; data URLs, bytes, PIL images and arrays are left.
            observe: for comparisons: called with the logits after the prompt over the head's real rows, once for each
                picture that was judged; not for other readings.
            on_progress: called for each layer of the tower and each ubatch of a prompt, on the engine's own thread.
            cancel: ends the classification from another thread: within one layer, or at once while it waits for others.

        Raises:
            ImageError: if an image cannot be used; there is never a text-only verdict instead.
            ConversationError: if the conversation cannot be rendered.
            PolicyError: if a category is unknown or malformed, or the threshold is no probability.
            ValueError: if ``frames`` is no whole number of at least 1, or ``imitation`` neither of the two.
            ContextLengthError: if the prompt is longer than the context.
            ClassificationCancelledError: if ``cancel`` was cancelled before the verdict was complete.
            ComputeError: if a computation fails. None of these is ever a verdict of safe.
        """
        if not 0 <= threshold <= 1:
            raise PolicyError(f"the threshold is {threshold}, it must be between 0 and 1.")
        check_frames(frames)
        whole = self._conversation(conversation, image, prompt, response, allow_files)
        in_force = self._policy(policy, exclude)
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
            judged = self._judge_image(question, frames, cancel) if one.images else self._judge(question, None, cancel)
            verdicts.append(judged)
        return combine(verdicts)

    def _judge_image(self, question: Question, frames: int, cancel: CancelToken | None) -> Verdict:
        """Judge every picture that the conversation's image shows."""
        pictures = self.engine.pictures(question.conversation.images[0], frames)
        verdicts = []
        for tiles in pictures:
            verdicts.append(self._judge(question, tiles, cancel))
            question = replace(question, started=time.perf_counter())
        whole = combine(verdicts)
        return replace(whole, frames=pictures.frames, warnings=(*whole.warnings, *pictures.notes))

    def _judge(self, question: Question, tiles: Tiles | None, cancel: CancelToken | None) -> Verdict:
        ready = replace(question, tiles=tiles, preprocess_ms=milliseconds_since(question.started))
        if cancel is not None:
            cancel.raise_if_cancelled()
        verdict = self.engine.run(partial(judge, ready, self.engine, self._answer), cancel)
        if cancel is not None:
            cancel.raise_if_cancelled()
        return verdict

    @staticmethod
    def _conversation(
        conversation: Conversation | Sequence[Mapping[str, Any]] | None,
        image: ImageSource | None,
        prompt: str | None,
        response: str | None,
        allow_files: bool,
    ) -> Conversation:
        if conversation is None:
            whole = Conversation.from_prompt(prompt, response, image)
        elif image is not None or prompt is not None or response is not None:
            raise ConversationError("give a conversation, or image, prompt and response, not both.")
        elif isinstance(conversation, Conversation):
            whole = conversation
        else:
            whole = Conversation.from_messages(conversation, allow_files=allow_files)
        if not allow_files and any(isinstance(source, str | PathLike) for source in whole.images):
            raise ConversationError("an image is named by a path, which is not allowed here: give its bytes")
        return whole

    @staticmethod
    def _policy(policy: Policy | Mapping[str, Any] | None, exclude: Iterable[str]) -> Policy:
        if policy is None:
            policy = DEFAULT_POLICY
        elif not isinstance(policy, Policy):
            policy = Policy.from_mapping(policy)
        return policy.exclude(exclude)

    def close(self) -> None:
        """Free the model; calling it again does nothing."""
        self.engine.close()

    def __enter__(self) -> "Guard":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
