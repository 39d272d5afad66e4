"""The guard on a tiny random model: what goes in, what comes out, and that nothing that goes wrong says safe."""

import io
import math
import threading
from collections.abc import Iterator
from dataclasses import asdict, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from visionward import Conversation, Guard, Policy, VisionwardError
from visionward.demonstration import DEMO_NOTICE
from visionward.errors import ContextLengthError, ConversationError, ImageError, PolicyError
from visionward.runtime.devices import Devices
from visionward.runtime.guard.answer import FirstToken
from visionward.runtime.guard.judgement import _decide
from visionward.runtime.guard.verdict import CategoryScore, FrameCount, Timings, TokenCounts, Verdict, combine
from visionward.runtime.images import memory_budget
from visionward.runtime.images.images import ImageSource

PICTURE = np.random.default_rng(5).integers(0, 255, (70, 100, 3), np.uint8)
OTHER = np.random.default_rng(6).integers(0, 255, (40, 40, 3), np.uint8)


@pytest.fixture(scope="module")
def guard(pair_of) -> Iterator[Guard]:
    pair = pair_of("plain", "f16")
    with Guard.load(pair.text, pair.mmproj, n_ctx=1024, threads=1) as guard:
        yield guard


def png(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, "PNG")
    return stream.getvalue()


def test_every_field_of_a_verdict(guard: Guard) -> None:
    verdict = guard.classify(image=PICTURE, prompt="What is this?")
    found = verdict.to_dict()
    assert list(found) == [
        "verdict", "score", "answer_mass", "categories", "category_scores", "role", "tiles", "preferred_tiles",
        "tokens", "timings_ms", "model", "vision_backend", "devices", "frames", "first_look", "warnings",
    ]  # fmt: skip
    assert found["verdict"] == "unsafe"
    assert 0 < found["score"] < 1
    assert 0 < found["answer_mass"] < 0.5
    assert list(found["category_scores"]) == [f"S{i}" for i in range(1, 14)]
    assert found["role"] == "User"
    assert found["tiles"] == found["preferred_tiles"] == 4
    assert found["tokens"]["prompt"] > 100
    assert found["model"] == "plain-text-F16.gguf"
    assert found["vision_backend"] == "ggml"
    assert found["devices"] == asdict(guard.engine.devices)
    assert found["frames"] == {"judged": 1, "total": 1}
    times = found["timings_ms"]
    stages = times["preprocess"] + times["vision"] + times["prefill"] + times["decode"]
    assert all(time > 0 for time in times.values())
    assert stages <= times["total"]


def test_score_and_mass_are_softmax_of_the_first_token(guard: Guard) -> None:
    """Against the logits of every position, on the prompt written out by hand."""
    verdict = guard.classify(image=PICTURE, prompt="What is this?")
    model = guard.engine.model
    special, encode = model.special_tokens, model.encode
    body = (
        " Task: Check if there is unsafe content in 'User' messages in conversations according our safety policy with "
        "the below categories.\n\n<BEGIN UNSAFECONTENT CATEGORIES>\nS1: Violent Crimes.\nS2: Non-Violent Crimes.\n"
        "S3: Sex Crimes.\nS4: Child Exploitation.\nS5: Defamation.\nS6: Specialized Advice.\nS7: Privacy.\n"
        "S8: Intellectual Property.\nS9: Indiscriminate Weapons.\nS10: Hate.\nS11: Self-Harm.\nS12: Sexual Content.\n"
        "S13: Elections.\n<END UNSAFE CONTENT CATEGORIES>\n\n<BEGIN CONVERSATION>\n\nUser: What is this?\n\n"
        "<END CONVERSATION>\n\nProvide your safety assessment for ONLY THE LAST User message in the above "
        "conversation:\n - First line must read 'safe' or 'unsafe'.\n - If unsafe, a second line must include a "
        "comma-separated list of violated categories. "
    )
    tokens = [
        special["<|begin_of_text|>"], special["<|start_header_id|>"], *encode("user"), special["<|end_header_id|>"],
        *encode("\n\n"), special["<|image|>"], *encode(body), special["<|eot_id|>"], special["<|start_header_id|>"],
        *encode("assistant"), special["<|end_header_id|>"], *encode("\n\n"),
    ]  # fmt: skip
    assert verdict.tokens.prompt == len(tokens)
    logits = guard.engine.logits(tokens, PICTURE).logits[-1].astype(np.float64)
    probabilities = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
    safe, unsafe = probabilities[encode("safe")[0]], probabilities[encode("unsafe")[0]]
    # The last layer of one row and of many goes through other float16 kernels, which round differently.
    assert verdict.score == pytest.approx(unsafe / (safe + unsafe), rel=1e-4)
    assert verdict.answer_mass == pytest.approx(safe + unsafe, rel=1e-3)


def test_classifying_again_gives_the_same_bits(guard: Guard) -> None:
    first = guard.classify(image=PICTURE, prompt="What is this?")
    guard.classify(image=OTHER, prompt="Something else altogether", response="Yes")
    again = guard.classify(image=PICTURE, prompt="What is this?")
    assert (first.score, first.answer_mass, first.category_scores) == (
        again.score,
        again.answer_mass,
        again.category_scores,
    )


@pytest.mark.parametrize("source", ["array", "bytes", "pil", "path", "messages"])
def test_an_image_in_every_form(guard: Guard, tmp_path, source: str) -> None:
    wanted = guard.classify(image=PICTURE, prompt="Look").score
    path = tmp_path / "picture.png"
    path.write_bytes(png(PICTURE))
    if source == "messages":
        parts = [{"type": "text", "text": "Look"}, {"type": "image_url", "image_url": {"url": str(path)}}]
        assert guard.classify([{"role": "user", "content": parts}]).score == wanted
    else:
        images = {"array": PICTURE, "bytes": png(PICTURE), "pil": Image.fromarray(PICTURE), "path": path}
        assert guard.classify(image=images[source], prompt="Look").score == wanted


def test_roles(guard: Guard) -> None:
    assert guard.classify(prompt="Hello").role == "User"
    assert guard.classify(prompt="Hello", response="Hi").role == "Agent"
    turns = [{"role": role, "content": "Words"} for role in ("user", "assistant", "user")]
    assert guard.classify(turns).role == "User"


def test_text_alone_says_so(guard: Guard) -> None:
    verdict = guard.classify(prompt="Hello")
    assert verdict.tiles == 0
    assert any("no image was given" in warning for warning in verdict.warnings)


def test_an_image_alone_says_so(guard: Guard) -> None:
    assert any("judge images alone" in warning for warning in guard.classify(image=PICTURE).warnings)


def test_a_model_that_is_no_guard_says_so(guard: Guard) -> None:
    """The tiny checkpoint's template is a chat model's."""
    warnings = guard.classify(prompt="Hello").warnings
    assert any("may not be a guard" in warning for warning in warnings)


def test_the_image_matters(guard: Guard) -> None:
    assert guard.classify(image=PICTURE, prompt="Look").score != guard.classify(image=OTHER, prompt="Look").score


def test_several_images_are_judged_one_by_one(guard: Guard) -> None:
    def judged(*pictures: np.ndarray) -> Verdict:
        parts = [{"type": "image", "image": picture} for picture in pictures]
        return guard.classify([{"role": "user", "content": [*parts, {"type": "text", "text": "Look"}]}])

    one, other, both = judged(PICTURE), judged(OTHER), judged(PICTURE, OTHER)
    assert both.score == max(one.score, other.score)
    assert both.tiles == one.tiles + other.tiles
    assert both.tokens.prompt == one.tokens.prompt + other.tokens.prompt


def animation(*pictures: np.ndarray) -> bytes:
    first, *others = (Image.fromarray(picture) for picture in pictures)
    stream = io.BytesIO()
    first.save(stream, "WEBP", save_all=True, append_images=others, lossless=True)
    return stream.getvalue()


FRAMES = [np.random.default_rng(seed).integers(0, 255, (40, 50, 3), np.uint8) for seed in range(5)]


def test_every_frame_is_judged_and_unsafe_wins(guard: Guard) -> None:
    seen: list[np.ndarray] = []
    stills = [guard.classify(image=frame, prompt="Look") for frame in FRAMES]
    whole = guard.classify(
        image=animation(*FRAMES), prompt="Look", frames=5, observe=lambda logits: seen.append(logits.copy())
    )
    assert whole.score == max(still.score for still in stills)
    assert whole.frames == FrameCount(5, 5)
    assert whole.tiles == sum(still.tiles for still in stills)
    assert whole.tokens.prompt == sum(still.tokens.prompt for still in stills)
    assert not any("frames were judged" in warning for warning in whole.warnings)
    assert len(seen) == 5
    assert stills[0].score < whole.score  # the first frame alone would have said less


@pytest.mark.parametrize(("limit", "judged"), [(1, (0,)), (2, (0, 4)), (3, (0, 2, 4)), (5, range(5)), (99, range(5))])
def test_so_many_frames_are_judged_and_the_rest_is_said(guard: Guard, limit: int, judged: tuple[int, ...]) -> None:
    whole = guard.classify(image=animation(*FRAMES), prompt="Look", frames=limit)
    assert whole.frames == FrameCount(len(judged), 5)
    assert whole.score == max(guard.classify(image=FRAMES[index], prompt="Look").score for index in judged)
    note = f"{len(judged)} of the image's 5 frames were judged; the others were not checked."
    assert (note in whole.warnings) == (len(judged) < 5)


def test_equal_frames_are_judged_once(guard: Guard) -> None:
    one = guard.classify(image=FRAMES[0], prompt="Look")
    several = guard.classify(image=pages(FRAMES[0], FRAMES[0], FRAMES[0]), prompt="Look")
    assert several.frames == FrameCount(3, 3)
    assert (several.tokens, several.tiles, several.score) == (one.tokens, one.tiles, one.score)


def pages(*pictures: np.ndarray) -> bytes:
    first, *others = (Image.fromarray(picture) for picture in pictures)
    stream = io.BytesIO()
    first.save(stream, "TIFF", save_all=True, append_images=others)
    return stream.getvalue()


def test_frames_of_several_images_are_added_up(guard: Guard) -> None:
    parts = [{"type": "image", "image": image} for image in (animation(*FRAMES), PICTURE)]
    whole = guard.classify([{"role": "user", "content": [*parts, {"type": "text", "text": "Look"}]}], frames=2)
    assert whole.frames == FrameCount(3, 6)


@pytest.mark.parametrize("image", [None, PICTURE, pages(*FRAMES)])
@pytest.mark.parametrize("frames", [0, -1, 1.5, True, "4"])
def test_frames_that_are_no_number_of_frames(guard: Guard, image: ImageSource | None, frames: int) -> None:
    with pytest.raises(ValueError, match=f"frames is {frames!r}, expected an integer of at least 1"):
        guard.classify(image=image, prompt="Look", frames=frames)


def test_a_damaged_later_frame_is_no_verdict(guard: Guard) -> None:
    data = bytearray(pages(*FRAMES))
    with pytest.raises(ImageError):
        guard.classify(image=bytes(data[: len(data) * 3 // 4]), prompt="Look")


def test_transparent_pictures_are_judged_on_white_and_on_black(guard: Guard) -> None:
    alpha = np.random.default_rng(9).integers(0, 2, (70, 100, 1), np.uint8) * 255
    clear = np.concatenate([PICTURE, alpha], axis=2)
    on = {grey: np.where(alpha == 255, PICTURE, np.uint8(grey)) for grey in (0, 255)}
    scores = {grey: guard.classify(image=picture, prompt="Look").score for grey, picture in on.items()}
    assert scores[0] != scores[255]
    whole = guard.classify(image=png(clear), prompt="Look")
    assert whole.score == max(scores.values())
    assert whole.frames == FrameCount(1, 1)
    note = "the picture is partly transparent: it was judged on white and on black."
    assert note in whole.warnings
    opaque = guard.classify(image=np.concatenate([PICTURE, alpha * 0 + 255], axis=2), prompt="Look")
    assert note not in opaque.warnings
    assert opaque.score == guard.classify(image=PICTURE, prompt="Look").score


def test_a_profile_that_was_ignored_is_said(guard: Guard) -> None:
    stream = io.BytesIO()
    Image.fromarray(PICTURE).save(stream, "PNG", icc_profile=b"nonsense")
    verdict = guard.classify(image=stream.getvalue(), prompt="Look")
    assert any("colour profile was ignored" in warning for warning in verdict.warnings)
    assert verdict.score == guard.classify(image=PICTURE, prompt="Look").score


def test_an_image_over_the_memory_limit(pair_of, monkeypatch) -> None:
    pair = pair_of("plain", "f16")
    monkeypatch.setattr(memory_budget, "_NEGLIGIBLE", 0)
    with Guard.load(pair.text, pair.mmproj, n_ctx=1024, threads=1, memory_limit=1) as limited:
        with pytest.raises(ImageError, match=r"image data: decoding 100 x 70 pixels takes about 56\.0 kB, but 0 bytes"):
            limited.classify(image=png(PICTURE), prompt="Look")
        assert limited.classify(prompt="Look").frames is None


def test_policies(guard: Guard) -> None:
    custom = {"S1": {"name": "Spoilers", "description": "Tells how a film ends."}, "S2": {"name": "Puns"}}
    verdict = guard.classify(prompt="Hello", policy=custom)
    assert list(verdict.category_scores) == ["S1", "S2"]
    assert list(guard.classify(prompt="Hello", exclude=["S2", "S13"]).category_scores) == [
        f"S{i}" for i in (1, *range(3, 13))
    ]
    assert list(guard.classify(prompt="Hello", policy=Policy.from_mapping(custom), exclude=["S1"]).category_scores) == [
        "S2"
    ]


REFUSED = [
    ({"image": b"not an image", "prompt": "Look"}, ImageError, "image"),
    ({"image": "no-such-file.png", "prompt": "Look"}, ImageError, "no-such-file.png"),
    ({"image": png(PICTURE)[:400], "prompt": "Look"}, ImageError, "trunc"),
    ({"image": np.zeros((3, 3, 7), np.uint8), "prompt": "Look"}, ImageError, "shape"),
    ({"image": np.zeros((3, 3, 1), np.uint8), "prompt": "Look"}, ImageError, r"shape \(3, 3, 1\)"),
    ({"image": np.zeros((0,), np.uint8), "prompt": "Look"}, ImageError, "shape"),
    ({}, ConversationError, "neither"),
    ({"prompt": ""}, ConversationError, "text"),
    ({"conversation": []}, ConversationError, "no messages"),
    ({"conversation": [{"role": "assistant", "content": "Hi"}]}, ConversationError, "the user must speak first"),
    (
        {"conversation": [{"role": "user", "content": "Hi"}], "prompt": "Hi"},
        ConversationError,
        "either a conversation, or image",
    ),
    ({"prompt": "word " * 3000}, ContextLengthError, "more than the context holds"),
    ({"prompt": "Hi", "exclude": ["S99"]}, PolicyError, "S99"),
    ({"prompt": "Hi", "policy": {"X1": {"name": "Odd"}}}, PolicyError, "X1"),
    ({"prompt": "Hi", "policy": {}}, PolicyError, "categor"),
    ({"prompt": "Hi", "threshold": math.nan}, PolicyError, "between 0 and 1"),
    ({"prompt": "Hi", "threshold": 1.5}, PolicyError, "between 0 and 1"),
]


@pytest.mark.parametrize(("arguments", "error", "fragment"), REFUSED)
def test_refusals(guard: Guard, arguments: dict, error: type[VisionwardError], fragment: str) -> None:
    with pytest.raises(error, match=fragment):
        guard.classify(**arguments)


def test_a_bomb_is_refused(guard: Guard, monkeypatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(ImageError, match="pixels"):
        guard.classify(image=png(PICTURE), prompt="Look")


def test_too_long_says_by_how_much(guard: Guard) -> None:
    fits = guard.classify(prompt="Hi").tokens.prompt
    with pytest.raises(ContextLengthError) as caught:
        guard.classify(prompt="S" + "1" * 2000)
    total = int(str(caught.value).split("has ")[1].split()[0])
    assert f"{total - 1024} more than the context holds (1024)" in str(caught.value)
    assert total > 2000 + fits - 10


@given(mass=st.floats(0, 1), score=st.floats(0, 1), threshold=st.floats(0, 1))
def test_the_decision_fails_closed(mass: float, score: float, threshold: float) -> None:
    verdict, doubts = _decide(FirstToken(score, mass), threshold)
    assert (verdict == "safe") == (mass >= 0.5 and score < threshold)
    assert bool(doubts) == (mass < 0.5)


@pytest.mark.parametrize("first", [FirstToken(math.nan, 0.9), FirstToken(0.1, math.nan)])
def test_no_number_is_no_safe(first: FirstToken) -> None:
    assert _decide(first, 0.5)[0] == "unsafe"


@settings(max_examples=30, deadline=None)
@given(text=st.text(st.characters(blacklist_categories=("Cs",), blacklist_characters="\0"), min_size=1, max_size=40))
def test_any_text_gives_a_verdict_or_a_clear_refusal(guard: Guard, text: str) -> None:
    if text.strip():
        assert guard.classify(prompt=text).verdict == "unsafe"
    else:
        with pytest.raises(ConversationError, match="text"):
            guard.classify(prompt=text)


def test_threads_take_turns(guard: Guard) -> None:
    wanted = {text: guard.classify(image=PICTURE, prompt=text).score for text in ("one", "two", "three")}
    found: dict[str, float] = {}

    def classify(text: str) -> None:
        found[text] = guard.classify(image=PICTURE, prompt=text).score

    threads = [threading.Thread(target=classify, args=(text,)) for text in wanted]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == wanted


def test_a_closed_guard_says_so(pair_of) -> None:
    pair = pair_of("plain", "f16")
    guard = Guard.load(pair.text, pair.mmproj, n_ctx=64, threads=1)
    guard.close()
    guard.close()
    with pytest.raises(VisionwardError, match="closed"):
        guard.classify(prompt="Hi")


@pytest.mark.parametrize("argument", [{"threads": 0}, {"gpu_layers": -1}, {"n_ctx": 0}])
def test_numbers_out_of_range(pair_of, argument: dict[str, int]) -> None:
    pair = pair_of("plain", "f16")
    with pytest.raises(ValueError, match="at least"):
        Guard.load(pair.text, pair.mmproj, **argument)


def verdict(kind: str, score: float, codes: tuple[str, ...] = ()) -> Verdict:
    return Verdict(
        verdict=kind,
        score=score,
        answer_mass=1.0,
        categories=tuple(CategoryScore(code, code, score) for code in codes),
        category_scores=dict.fromkeys(codes, score),
        role="User",
        tiles=1,
        preferred_tiles=1,
        tokens=TokenCounts(10, 0),
        timings_ms=Timings(5, 1, 1, 1, 1, 4),
        model="m",
        vision_backend="ggml",
        devices=Devices("CPU", "CPU", "CPU", 0, 33),
        warnings=(kind,),
    )


def test_unsafe_wins_over_a_higher_score() -> None:
    """A verdict can be unsafe for want of answer mass while its score is low."""
    whole = combine([verdict("safe", 0.4), verdict("unsafe", 0.1, ("S2",)), verdict("safe", 0.3)])
    assert (whole.verdict, whole.score, whole.tiles) == ("unsafe", 0.1, 3)
    assert [category.code for category in whole.categories] == ["S2"]
    assert whole.timings_ms == Timings(5, 3, 3, 3, 3, 12)
    assert whole.warnings == ("safe", "unsafe")


def test_scores_that_were_not_computed_are_none() -> None:
    scored = verdict("unsafe", 0.9, ("S1",))
    unscored = replace(verdict("safe", 0.2), category_scores={"S1": None, "S2": None})
    assert combine([unscored, scored]).category_scores == {"S1": 0.9, "S2": None}


def test_categories_of_several_images_are_joined() -> None:
    whole = combine([verdict("unsafe", 0.6, ("S1", "S2")), verdict("unsafe", 0.9, ("S2", "S3"))])
    assert {category.code: category.score for category in whole.categories} == {"S1": 0.6, "S2": 0.9, "S3": 0.9}


def test_a_conversation_object_is_taken(guard: Guard) -> None:
    assert guard.classify(Conversation.from_prompt("Hello")).score == guard.classify(prompt="Hello").score


def test_a_guard_describes_itself(pair_of) -> None:
    pair = pair_of("plain", "f16")
    guard = Guard.load(pair.text, pair.mmproj, n_ctx=64, threads=1)
    expected = f"<Guard {pair.text.name}, {pair.mmproj.name}, device {guard.engine.device_name}, vision backend ggml, "
    assert repr(guard) == expected + "open>"
    guard.close()
    assert repr(guard) == expected + "closed>"


def test_a_verdict_has_no_truth_value(guard: Guard) -> None:
    verdict = guard.classify(prompt="Hello")
    with pytest.raises(TypeError, match=r"use verdict\.unsafe"):
        bool(verdict)
    assert isinstance(verdict.unsafe, bool)


def test_the_demonstration_guard_in_one_call() -> None:
    with Guard.demo(threads=1) as guard:
        assert guard.classify(prompt="Hello").warnings[0] == DEMO_NOTICE
        assert "demo-guard-text" in repr(guard)


def test_chats_with_a_system_message_and_repeated_roles(guard: Guard) -> None:
    chat = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}]
    chat.append({"role": "user", "content": "Are you there?"})
    with pytest.raises(ConversationError, match="message 1: the role is system"):
        guard.classify(chat, merge_turns=True)
    with pytest.raises(ConversationError, match="message 3: the role is user"):
        guard.classify(chat, system="drop")
    verdict = guard.classify(chat, merge_turns=True, system="drop")
    assert "1 system message was left out of the conversation and not judged." in verdict.warnings
    merged = {"role": "user", "content": [{"type": "text", "text": text} for text in ("Hello", "Are you there?")]}
    assert guard.classify([merged]).score == verdict.score
    with pytest.raises(ValueError, match="expected 'refuse' or 'drop'"):
        guard.classify(chat, system="keep")
