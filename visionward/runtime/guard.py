"""The guard: an image and a conversation go in, a verdict comes out."""

import math
import time
from collections.abc import Iterable, Mapping, Sequence
from os import PathLike
from types import TracebackType
from typing import Any, Literal

from visionward.runtime.answer import AnswerReader
from visionward.runtime.conversation import Conversation
from visionward.runtime.engine import DEFAULT_N_CTX, Engine
from visionward.runtime.errors import ConversationError, PolicyError
from visionward.runtime.images import ImageSource
from visionward.runtime.policy import DEFAULT_POLICY, Policy
from visionward.runtime.preprocess import Tiles
from visionward.runtime.prompt import ChatTemplate, Prompt, tokenize
from visionward.runtime.verdict import CategoryScore, Timings, TokenCounts, Verdict, combine

DEFAULT_THRESHOLD = 0.5
# Under this mass the model did not really answer.
LEAST_ANSWER_MASS = 0.5

TEXT_ONLY = "no image was given: the text was judged without the cross-attention layers."
IMAGE_ALONE = "the judged message has no text: the model is not meant as a pure image classifier."


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
    ) -> "Guard":
        """Load a GGUF pair.

        Args:
            text_gguf: the text file, as `visionward convert` wrote it.
            mmproj_gguf: the mmproj file of the same conversion, of any type.
            threads: CPU threads; as many as there are physical cores unless given.
            gpu_layers: decoder layers on the GPU; None for all where the library has one, 0 for the CPU alone.
            n_ctx: tokens that a prompt may have.

        Raises:
            ModelFileError: if a file is missing, damaged or of another kind, or the two do not belong together.
            ComputeError: if memory does not suffice.
            NativeLibraryError: if the installed llama.cpp is not one that this version was tested with.
        """
        start = time.perf_counter()
        engine = Engine(text_gguf, mmproj_gguf, threads=threads, gpu_layers=gpu_layers, n_ctx=n_ctx)
        try:
            guard = cls(engine)
        except BaseException:
            engine.close()
            raise
        guard._load_ms = _milliseconds(start)
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
    ) -> Verdict:
        """Judge the last message of a conversation.

        Either a conversation is given (OpenAI-style messages, images as parts of them), or image, prompt and response.
        The last message decides: prompt classification where it is the user's, response classification where it is
        the assistant's. A conversation with several images is judged once for each, and unsafe wins.

        Args:
            conversation: messages, or a Conversation.
            image: a path, bytes, PIL image or uint8 array.
            prompt: what the user said.
            response: what the assistant answered; then the answer is judged.
            policy: the categories in force, as a Policy or a mapping of codes to names; MLCommons S1-S13 unless given.
            exclude: codes of the policy that are not in force.
            threshold: the verdict is unsafe from this score on.
            category_scores: score the categories for a safe verdict too, which costs a decode.

        Raises:
            ImageError: if an image cannot be used; there is never a text-only verdict instead.
            ConversationError: if the conversation cannot be rendered.
            PolicyError: if a category is unknown or malformed, or the threshold is no probability.
            ContextLengthError: if the prompt is longer than the context.
            ComputeError: if a computation fails. None of these is ever a verdict of safe.
        """
        if not 0 <= threshold <= 1:
            raise PolicyError(f"the threshold is {threshold}, it must be between 0 and 1.")
        whole = self._conversation(conversation, image, prompt, response)
        in_force = self._policy(policy, exclude)
        verdicts = []
        for one in whole.per_image():
            start = time.perf_counter()
            rendered = self._template.render(one, in_force)
            tiles = self.engine.tile(one.images[0]) if one.images else None
            preprocess_ms = _milliseconds(start)
            judge = _Judgement(self, one, in_force, rendered, tiles, threshold, category_scores)
            verdicts.append(self.engine.run(lambda judge=judge: judge.verdict(start, preprocess_ms)))  # type: ignore[misc]
        return combine(verdicts)

    @staticmethod
    def _conversation(
        conversation: Conversation | Sequence[Mapping[str, Any]] | None,
        image: ImageSource | None,
        prompt: str | None,
        response: str | None,
    ) -> Conversation:
        if conversation is None:
            return Conversation.from_prompt(prompt, response, image)
        if image is not None or prompt is not None or response is not None:
            raise ConversationError("give a conversation, or image, prompt and response, not both.")
        return conversation if isinstance(conversation, Conversation) else Conversation.from_messages(conversation)

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


class _Judgement:
    """One classification on the engine's thread."""

    def __init__(
        self,
        guard: Guard,
        conversation: Conversation,
        policy: Policy,
        prompt: Prompt,
        tiles: Tiles | None,
        threshold: float,
        category_scores: bool,
    ) -> None:
        self._guard = guard
        self._engine = guard.engine
        self._conversation = conversation
        self._policy = policy
        self._prompt = prompt
        self._tiles = tiles
        self._threshold = threshold
        self._category_scores = category_scores

    def verdict(self, start: float, preprocess_ms: float) -> Verdict:
        engine, answer = self._engine, self._guard._answer
        tokens = tokenize(self._prompt, engine.model)
        began = time.perf_counter()
        memory = None if self._tiles is None else engine.remember(self._tiles)
        vision_ms = _milliseconds(began)
        try:
            began = time.perf_counter()
            position = 0 if memory is None else tokens.index(engine.model.image_token_id)
            first = answer.first_token(engine.decoder.prefill(tokens, memory, position))
            prefill_ms = _milliseconds(began)

            began = time.perf_counter()
            warnings = [*self._prompt.warnings, *self._input_warnings()]
            verdict: Literal["safe", "unsafe"] = "safe"
            if not math.isfinite(first.score) or first.score >= self._threshold:
                verdict = "unsafe"
            if not first.mass >= LEAST_ANSWER_MASS:
                verdict = "unsafe"
                warnings.append(
                    f"only {first.mass:.1%} of the probability is on 'safe' or 'unsafe': the model did not answer, "
                    "and the verdict is unsafe to be on the safe side."
                )
            named: tuple[CategoryScore, ...] = ()
            scores: dict[str, float] = {}
            decoded = 0
            if verdict == "unsafe" or self._category_scores:
                scores, logits = answer.category_scores(engine.decoder, self._policy)
                decoded = answer.opening_tokens
            if verdict == "unsafe":
                codes = answer.named_codes(engine.decoder, logits, self._policy)
                decoded += codes.tokens
                warnings += codes.warnings
                named = tuple(CategoryScore(code, self._policy[code].name, scores[code]) for code in codes.codes)
            decode_ms = _milliseconds(began)
        finally:
            engine.decoder.forget()
            if memory is not None:
                memory.close()
        return Verdict(
            verdict=verdict,
            score=first.score,
            answer_mass=first.mass,
            categories=named,
            category_scores=scores,
            role=self._conversation.judged_role,
            tiles=0 if self._tiles is None else len(self._tiles.pixel_values),
            tokens=TokenCounts(len(tokens), decoded),
            timings_ms=Timings(
                load=self._guard._load_ms,
                preprocess=preprocess_ms,
                vision=vision_ms,
                prefill=prefill_ms,
                decode=decode_ms,
                total=_milliseconds(start),
            ),
            model=engine.model.path.name,
            warnings=tuple(warnings),
        )

    def _input_warnings(self) -> list[str]:
        if self._tiles is None:
            return [TEXT_ONLY]
        return [IMAGE_ALONE] if self._conversation.judges_image_alone else []


def _milliseconds(start: float) -> float:
    return (time.perf_counter() - start) * 1000
