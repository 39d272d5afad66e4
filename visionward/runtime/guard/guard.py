"""The guard: an image and a conversation go in, a verdict comes out."""

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from os import PathLike
from types import TracebackType
from typing import Any

from visionward.errors import ConversationError, PolicyError
from visionward.names import (
    CPU_PROVIDER,
    DEFAULT_FRAMES,
    DEFAULT_IMAGE_CACHE_BYTES,
    DEFAULT_N_CTX,
    DEFAULT_THRESHOLD,
    ImitationTreatment,
    Kernels,
    VisionBackendChoice,
)
from visionward.runtime.engine import Engine
from visionward.runtime.guard.answer import AnswerReader
from visionward.runtime.guard.chat_template import ChatTemplate
from visionward.runtime.guard.conversation import Conversation
from visionward.runtime.guard.imitation import readings
from visionward.runtime.guard.judgement import Observer, Question, judge, milliseconds_since
from visionward.runtime.guard.policy import DEFAULT_POLICY, Policy
from visionward.runtime.guard.verdict import Verdict, combine
from visionward.runtime.images.images import ImageSource
from visionward.runtime.images.pictures import check_frames


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
        threads: int | None = None,
        gpu_layers: int | None = None,
        n_ctx: int = DEFAULT_N_CTX,
        kernels: Kernels = "plain",
        vision_backend: VisionBackendChoice = "auto",
        onnx_tower: str | PathLike[str] | None = None,
        onnx_provider: str = CPU_PROVIDER,
        memory_limit: int | None = None,
        image_cache_bytes: int = DEFAULT_IMAGE_CACHE_BYTES,
    ) -> "Guard":
        """Load a GGUF pair.

        Args:
            text_gguf: the text file, as `visionward convert` wrote it.
            mmproj_gguf: the mmproj file of the same conversion, of any type.
            threads: CPU threads; as many as there are physical cores unless given.
            gpu_layers: decoder layers on the GPU; None for all where the library has one, 0 for the CPU alone.
            n_ctx: tokens that a prompt may have.
            kernels: ``plain`` reads the text file's weights where they are mapped; ``packed`` copies them for ggml's
                faster CPU kernels, where those work (docs/kernels.md).
            vision_backend: the engine that runs the vision tower: ``ggml``, ``onnx`` (ONNX Runtime) or ``openvino``.
                ``auto`` takes the fastest that is installed, has an exported tower to run, and fits into the memory
                limit; the verdict says which it was.
            onnx_tower: the tower that `visionward export-onnx` wrote; one beside the mmproj file unless given.
            onnx_provider: what ONNX Runtime computes with, by its own name.
            memory_limit: bytes that the process may take. ``auto`` keeps to it, and to a container's limit; an image
                whose decoding would not is refused.
            image_cache_bytes: memory for images that were encoded already, so that judging a response after its prompt
                does not look at the image again; 0 keeps none. ``Engine`` says what one takes.

        Raises:
            ModelFileError: if a file is missing, damaged or of another kind, or the files do not belong together.
            ComputeError: if memory does not suffice.
            NativeLibraryError: if the installed llama.cpp is not one that this version was tested with.
        """
        start = time.perf_counter()
        engine = Engine(
            text_gguf,
            mmproj_gguf,
            threads=threads,
            gpu_layers=gpu_layers,
            n_ctx=n_ctx,
            kernels=kernels,
            vision_backend=vision_backend,
            onnx_tower=onnx_tower,
            onnx_provider=onnx_provider,
            memory_limit=memory_limit,
            image_cache_bytes=image_cache_bytes,
        )
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

        Raises:
            ImageError: if an image cannot be used; there is never a text-only verdict instead.
            ConversationError: if the conversation cannot be rendered.
            PolicyError: if a category is unknown or malformed, or the threshold is no probability.
            ValueError: if ``frames`` is no whole number of at least 1, or ``imitation`` neither of the two.
            ContextLengthError: if the prompt is longer than the context.
            ComputeError: if a computation fails. None of these is ever a verdict of safe.
        """
        if not 0 <= threshold <= 1:
            raise PolicyError(f"the threshold is {threshold}, it must be between 0 and 1.")
        check_frames(frames)
        whole = self._conversation(conversation, image, prompt, response, allow_files)
        in_force = self._policy(policy, exclude)
        verdicts = []
        for one in whole.per_image():
            start = time.perf_counter()
            prompts = readings(self._template, one, in_force, imitation)
            question = Question(one, in_force, prompts, None, threshold, category_scores, observe)
            verdicts.append(self._judge_image(question, frames, start) if one.images else self._judge(question, start))
        return combine(verdicts)

    def _judge_image(self, question: Question, frames: int, start: float) -> Verdict:
        """Judge every picture that the conversation's image shows; the time of the first runs from ``start``."""
        pictures = self.engine.pictures(question.conversation.images[0], frames)
        verdicts = []
        for tiles in pictures:
            verdicts.append(self._judge(replace(question, tiles=tiles), start))
            start = time.perf_counter()
        whole = combine(verdicts)
        return replace(whole, frames=pictures.frames, warnings=(*whole.warnings, *pictures.notes))

    def _judge(self, question: Question, start: float) -> Verdict:
        preprocess_ms = milliseconds_since(start)
        verdict = self.engine.run(partial(judge, question, self.engine, self._answer))
        total_ms = milliseconds_since(start)
        timings = replace(verdict.timings_ms, load=self._load_ms, preprocess=preprocess_ms, total=total_ms)
        return replace(verdict, timings_ms=timings)

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
