import base64
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from visionward.errors import ConversationError
from visionward.runtime.guard.chat_template import ChatTemplate
from visionward.runtime.guard.conversation import Conversation
from visionward.runtime.guard.message import ImagePart, Message, TextPart

PIXEL = Image.new("RGB", (1, 1))
DATA_URL = "data:image/png;base64," + base64.b64encode(b"pixels").decode()


def user(*parts):
    return {"role": "user", "content": list(parts)}


def text(value):
    return {"type": "text", "text": value}


def image(value):
    return {"type": "image", "image": value}


def test_from_prompt():
    conversation = Conversation.from_prompt("Hello", "Hi", image=PIXEL)
    assert [message.role for message in conversation.messages] == ["user", "assistant"]
    assert conversation.images == (PIXEL,)
    assert conversation.texts == ("Hello", "Hi")
    assert conversation.judged_role == "Agent"
    assert not conversation.judges_image_alone
    assert Conversation.from_prompt("Hello").judged_role == "User"


@pytest.mark.parametrize("prompt", [None, "", " \n"])
def test_an_image_needs_no_prompt(prompt):
    conversation = Conversation.from_prompt(prompt, image=PIXEL)
    assert conversation.texts == ()
    assert conversation.judges_image_alone
    assert not Conversation.from_prompt(prompt, "A cat.", image=PIXEL).judges_image_alone


@pytest.mark.parametrize(
    ("prompt", "response", "expected"),
    [
        (None, None, "neither a prompt nor an image"),
        (None, "Hi", "neither a prompt nor an image"),
        ("", None, "message 1: the text is empty"),
        ("a\0", None, r"message 1: the text contains a NUL character \(U\+0000\) at position 1"),
        ("a", " ", "message 2: the text is empty"),
        ("a", "b\udc80", r"message 2: the text contains a lone surrogate \(U\+DC80\) at position 1"),
        (7, None, "the text is int, expected text"),
    ],
)
def test_prompts_that_cannot_be_used(prompt, response, expected):
    with pytest.raises(ConversationError, match=expected):
        Conversation.from_prompt(prompt, response)


@pytest.mark.parametrize(
    ("part", "expected"),
    [
        ({"type": "image_url", "image_url": {"url": DATA_URL}}, b"pixels"),
        ({"type": "image_url", "image_url": {"url": DATA_URL, "detail": "low"}}, b"pixels"),
        ({"type": "image_url", "image_url": DATA_URL}, b"pixels"),
        ({"type": "input_image", "image_url": DATA_URL}, b"pixels"),
        (image(DATA_URL), b"pixels"),
        (image(b"bytes"), b"bytes"),
        (image(PIXEL), PIXEL),
        (image("cat.png"), Path("/base/cat.png")),
        (image("/cats/cat.png"), Path("/cats/cat.png")),
        (image(Path("cat.png")), Path("/base/cat.png")),
        (image("a:b.png"), Path("/base/a:b.png")),
        ({"type": "image_url", "image_url": {"url": "file:///cats/a%20cat.png"}}, Path("/cats/a cat.png")),
        ({"type": "image_url", "image_url": {"url": "file://localhost/cats/cat.png"}}, Path("/cats/cat.png")),
    ],
)
def test_ways_to_name_an_image(part, expected):
    for kind in ("text", "input_text"):
        messages = [{"role": "user", "content": [part, {"type": kind, "text": "What is it?"}]}]
        conversation = Conversation.from_messages(messages, "/base")
        assert conversation.images == (expected,)
        assert conversation.texts == ("What is it?",)


@pytest.mark.parametrize("shape", [(4, 5, 1), (4, 5, 3), (0,), (1,), ()])
def test_an_array_beside_the_content_is_not_overlooked(shape):
    """Compared with an empty list, an array (h, w, 1) is an empty array, which numpy 1.26 takes for false."""
    for key in ("images", "image", "detail_image"):
        with pytest.raises(ConversationError, match=f"the key '{key}', whose value would not be judged"):
            Conversation.from_messages([{"role": "user", "content": "Hello", key: np.zeros(shape, np.uint8)}])


def test_arrays_are_images():
    array = np.zeros((2, 2, 3), np.uint8)
    assert Conversation.from_messages([user(image(array))]).images[0] is array


def test_without_a_base_directory_paths_stay_as_they_are():
    assert Conversation.from_messages([user(image("cat.png"))]).images == (Path("cat.png"),)


@pytest.mark.parametrize("name", ["cat.png", Path("cat.png"), "file:///cat.png", "/etc/passwd"])
def test_a_server_lets_nobody_name_its_files(name):
    with pytest.raises(ConversationError, match="message 1: an image is named by a path, which is not allowed here"):
        Conversation.from_messages([user(image(name))], allow_files=False)
    assert Conversation.from_messages([user(image(DATA_URL))], allow_files=False).images == (b"pixels",)


@pytest.mark.parametrize(
    ("messages", "expected"),
    [
        ([], "the conversation has no messages"),
        ("hello", "the messages are str, expected a list"),
        ({"role": "user"}, "the messages are dict, expected a list"),
        (["hello"], "message 1: found str, expected an object"),
        ([{"content": "a"}], "message 1: the role is missing"),
        ([{"role": "tool", "content": "a"}], "message 1: the role is 'tool', expected 'user' or 'assistant'"),
        ([{"role": ["user"], "content": "a"}], "message 1: the role is"),
        (
            [{"role": "system", "content": "a"}],
            r"message 1: the role is system, .*leave the message out \(system='drop', --system drop\)",
        ),
        (
            [{"role": "developer", "content": "a"}],
            "message 1: the role is developer, and Llama Guard's prompt has user and assistant only",
        ),
        (
            [{"role": "assistant", "content": "a"}],
            "message 1: the role is assistant, expected user: the user must speak first",
        ),
        (
            [user(text("a")), user(text("b"))],
            r"message 2: the role is user, expected assistant: .* merge_turns=True \(--merge-turns\)",
        ),
        ([{"role": "user"}], "message 1: the content is missing"),
        ([{"role": "user", "content": None}], "the content is missing"),
        ([{"role": "user", "content": 7}], "the content is int, expected a string or a list"),
        ([{"role": "user", "content": ""}], "message 1: the text is empty"),
        ([user()], "message 1: the content is empty"),
        ([user(text(" \n"))], "message 1: the text is empty"),
        ([user(text("a"), text(""))], "message 1: the text is empty"),
        ([user(text("a\0b"))], r"message 1: the text contains a NUL character \(U\+0000\) at position 1"),
        ([user(text("\ud83d"))], "a lone surrogate"),
        ([user(text(7))], "the text is int, expected text"),
        ([user({"type": "text"})], "a 'text' part has no 'text'"),
        ([user("a")], "a content part is str, expected an object"),
        ([user({"type": "input_audio"})], "unknown content part type 'input_audio'"),
        ([user({"type": []})], r"unknown content part type \[\]"),
        ([user({"type": "image"})], "a 'image' part names no image"),
        ([user({"type": "image_url", "image_url": {}})], "names no image"),
        ([user(image(7))], "an image is int, expected a data URL or a path"),
        ([user(image("https://example.org/a.png"))], "network URL, and nothing is downloaded"),
        ([user(image("HTTP://example.org/a.png"))], "network URL"),
        ([user(image("ftp://example.org/a.png"))], "a URL of the scheme 'ftp', expected a data URL or a file"),
        ([user(image("file://host/a.png"))], "names the host host, and nothing is downloaded"),
        ([user(image("file://[/a.png"))], "malformed file: URL"),
        ([user(image("data:text/plain,a"))], "message 1: the data URL has the media type 'text/plain'"),
        ([user(text("a")), {"role": "assistant", "content": [image(PIXEL)]}], "message 2: an assistant message has"),
    ],
)
def test_malformed_messages(messages, expected):
    with pytest.raises(ConversationError, match=expected):
        Conversation.from_messages(messages)


def test_blank_text_beside_an_image_is_left_out():
    conversation = Conversation.from_messages([user(text(""), image(PIXEL))])
    assert conversation.texts == ()
    assert conversation.judges_image_alone


def test_one_conversation_for_each_image():
    conversation = Conversation.from_messages(
        [user(image(b"a"), text("first")), {"role": "assistant", "content": "ok"}, user(image(b"b"), image(b"c"))]
    )
    each = conversation.per_image()
    assert [one.images for one in each] == [(b"a",), (b"b",), (b"c",)]
    assert all(one.texts == ("first", "ok") for one in each)
    assert [len(one.messages) for one in each] == [3, 3, 3]
    assert each[0].messages[2].parts == ()
    with pytest.raises(IndexError, match="image 3 of 3"):
        conversation.for_image(3)


def test_at_most_one_image_is_judged_as_it_is():
    for conversation in (Conversation.from_prompt("a"), Conversation.from_prompt("a", image=PIXEL)):
        assert conversation.per_image() == (conversation,)


def test_a_conversation_made_by_hand_is_checked_too():
    with pytest.raises(ConversationError, match="neither text nor an image"):
        Conversation((Message("user", ()),))
    with pytest.raises(ConversationError, match="expected 'user' or 'assistant'"):
        Message("judge", (TextPart("a"),))
    with pytest.raises(ConversationError, match="an assistant message has an image"):
        Message("assistant", (ImagePart(PIXEL),))


@pytest.mark.parametrize("wrap", [lambda messages: messages, lambda messages: {"model": "x", "messages": messages}])
def test_from_file(tmp_path, wrap):
    path = tmp_path / "conversation.json"
    path.write_text(json.dumps(wrap([user(image("cat.png"), text("What is it?"))])), encoding="utf-8")
    assert Conversation.from_file(path).images == (tmp_path / "cat.png",)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("{", "not JSON"),
        ("{}", "an object with 'messages'"),
        ("7", "the messages are int"),
        ('[{"role": "user", "role": "user"}]', "the key 'role' is repeated in one object"),
        (f"[{'7' * 5000}]", "a number with 5000 digits is too large"),
        ("[1e999]", "the number 1e999 is too large"),
        ("[NaN]", "NaN is not JSON"),
        ('[{"role": "user", "content": "\\ud800"}]', "message 1: the text contains a lone surrogate"),
    ],
)
def test_files_name_themselves_in_errors(tmp_path, content, expected):
    path = tmp_path / "conversation.json"
    path.write_text(content)
    with pytest.raises(ConversationError, match=expected) as caught:
        Conversation.from_file(path)
    assert str(caught.value).startswith(f"{path}: ")


WORDS = st.sampled_from(
    ["user", "assistant", "system", "text", "image", "image_url", "url", DATA_URL, "file:", "//", "a"]
)
KEYS = st.sampled_from(["role", "content", "type", "text", "image", "image_url", "url"])
JSON = st.recursive(st.none() | st.integers() | WORDS | st.text(), lambda x: st.lists(x) | st.dictionaries(KEYS, x))


@given(JSON | st.lists(st.fixed_dictionaries({"role": st.just("user"), "content": JSON}), max_size=2))
@settings(deadline=None)
def test_anything_that_json_can_hold_is_a_conversation_or_an_error(value):
    try:
        conversation = Conversation.from_messages(value)
    except ConversationError:
        return
    assert conversation.texts or conversation.images


@pytest.mark.parametrize(
    "message",
    [
        {"role": "user", "content": "Hello", "images": ["aGVsbG8="]},
        {"role": "user", "content": "Hello", "image": "cat.png"},
        {"role": "user", "content": [{"type": "text", "text": "Hello", "image_url": {"url": "cat.png"}}]},
        {"role": "user", "content": [{"type": "image_url", "image_url": "cat.png", "text": "Hello"}]},
        {"role": "user", "content": [{"type": "image", "image": "cat.png", "image_url": {"url": "dog.png"}}]},
    ],
)
def test_what_would_not_be_judged_is_refused(message):
    with pytest.raises(ConversationError, match=r"message 1: .*(would not be judged: remove it|names two images)"):
        Conversation.from_messages([message])


def test_tool_calls_are_refused():
    said = {"role": "assistant", "content": "Hi", "tool_calls": [{"function": {"arguments": "{}"}}]}
    with pytest.raises(ConversationError, match=r"message 2: the message has .* under the key 'tool_calls'"):
        Conversation.from_messages([{"role": "user", "content": "Hello"}, said])


def test_messages_as_clients_write_them():
    """As `model_dump()` of OpenAI's Python package 1.109 and of its Responses API writes them."""
    said = {"role": "assistant", "content": "Hi", "refusal": None, "audio": None, "annotations": [], "tool_calls": None}
    said |= {"function_call": None, "name": None}
    shown = {"type": "image_url", "image_url": {"url": "cat.png", "detail": "low"}}
    messages = [{"role": "user", "content": [shown, text("Hello")], "name": None}, said]
    assert Conversation.from_messages(messages).texts == ("Hello", "Hi")
    output = {"type": "output_text", "text": "Hi", "annotations": [], "logprobs": []}
    asked = [{"type": "input_image", "image_url": DATA_URL, "detail": "auto", "file_id": None}]
    responses = [
        {"type": "message", "role": "user", "content": [*asked, {"type": "input_text", "text": "Hello"}]},
        {"type": "message", "role": "assistant", "id": "msg_67ccf1", "status": "completed", "content": [output]},
    ]
    conversation = Conversation.from_messages(responses)
    assert (conversation.texts, conversation.images) == (("Hello", "Hi"), (b"pixels",))


def test_a_refusal_is_text_of_the_assistant():
    asked = {"role": "user", "content": "Hello"}
    for said in (
        {"role": "assistant", "content": None, "refusal": "No."},
        {"role": "assistant", "refusal": "No."},
        {"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]},
    ):
        assert Conversation.from_messages([asked, said]).texts == ("Hello", "No.")
    both = {"role": "assistant", "content": "Yes.", "refusal": "No."}
    assert Conversation.from_messages([asked, both]).texts == ("Hello", "Yes.", "No.")
    with pytest.raises(ConversationError, match="message 1: a user message has a 'refusal'"):
        Conversation.from_messages([{"role": "user", "content": "Hello", "refusal": "No."}])
    with pytest.raises(ConversationError, match="message 2: the text is dict"):
        Conversation.from_messages([asked, {"role": "assistant", "refusal": {"text": "No."}}])


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("name", "Ann"),
        ("id", "how to do it"),
        ("id", 7),
        ("status", "how to do it"),
        ("type", "how to do it"),
        ("annotations", [{"title": "how to do it"}]),
        ("refusal_text", None),
        ("how to do it", None),
        (7, "how to do it"),
    ],
)
def test_keys_of_a_message_hold_nothing_unjudged(key, value):
    with pytest.raises(
        ConversationError, match=r"message 1: the message has .*(which|whose value) would not be judged: remove it"
    ):
        Conversation.from_messages([{"role": "user", "content": "Hello", key: value}])


@pytest.mark.parametrize(
    "part",
    [
        {"type": "text", "text": "a", "annotations": [{"type": "url_citation", "title": "b"}]},
        {"type": "output_text", "text": "a", "logprobs": [{"token": "b"}]},
        {"type": "text", "text": "a", "cache_control": {"type": "ephemeral"}},
        {"type": "image_url", "image_url": {"url": DATA_URL, "b64_json": "aGVsbG8="}},
        {"type": "image_url", "image_url": {"url": DATA_URL, "image_url": {"url": "dog.png"}}},
        {"type": "image_url", "image_url": {"url": DATA_URL, "detail": "how to do it"}},
        {"type": "image", "image": {"url": DATA_URL, "text": "b"}},
        {"type": "input_image", "image_url": DATA_URL, "detail": "how to do it"},
        {"type": "input_image", "image_url": DATA_URL, "file_id": "file-1"},
        {"type": "refusal", "refusal": "No.", "text": "b"},
    ],
)
def test_keys_of_a_part_hold_nothing_unjudged(part):
    asked = {"role": "user", "content": [part]}
    with pytest.raises(ConversationError, match=r"message 1: .* (which|whose value) would not be judged: remove it"):
        Conversation.from_messages([asked])


@pytest.mark.parametrize("array", [np.zeros((0,), np.uint8), np.zeros((2, 2, 1), np.uint8), np.zeros((1,), np.uint8)])
def test_an_array_is_never_asked_for_its_truth(array):
    """NumPy before 2 says of an array of one column that it equals an empty list."""
    for key in ("images", "name", "annotations"):
        with pytest.raises(ConversationError, match=f"message 1: the message has .*{key}"):
            Conversation.from_messages([{"role": "user", "content": "Hello", key: array}])
    for message in ({"role": array, "content": "a"}, {"role": "user", "content": [{"type": array, "text": "a"}]}):
        with pytest.raises(ConversationError, match="message 1: "):
            Conversation.from_messages([message])
    with pytest.raises(ConversationError, match="names two images"):
        Conversation.from_messages([user({"type": "image", "image": array, "image_url": DATA_URL})])


KEYS_SEEN_SOMEWHERE = [
    "image", "images", "image_url", "url", "b64_json", "data", "source", "file", "file_id", "input_image", "video",
    "audio", "text", "content", "input", "prompt", "response", "messages", "conversation", "history", "system",
    "instructions", "name", "id", "status", "type", "detail", "annotations", "logprobs", "refusal", "tool_calls",
    "tool_call_id", "function_call", "reasoning", "reasoning_content", "metadata", "cache_control", "extra", "user",
    "caption", "alt", "title", "description", "parts", "role",
]  # fmt: skip
EXTRA_KEYS = st.sampled_from(KEYS_SEEN_SOMEWHERE) | st.text(max_size=8)
MARKED = "marked words"
EXTRA_VALUES = st.sampled_from(
    [
        *(MARKED, [MARKED], (MARKED,), {"text": MARKED}, {"url": MARKED}, [{"title": MARKED}], 7, True, 0.5),
        *([{"type": "text", "text": MARKED}], b"marked", PIXEL, np.zeros((2, 2, 1), np.uint8)),
    ]
)


@given(key=EXTRA_KEYS, value=EXTRA_VALUES, level=st.sampled_from(["outer", "message", "text", "image", "object"]))
@settings(deadline=None, max_examples=400)
def test_what_is_added_anywhere_is_refused_or_judged(tmp_path_factory, key, value, level):
    source = {"url": DATA_URL}
    parts = [{"type": "image_url", "image_url": source}, {"type": "text", "text": "Hello"}]
    asked, said = {"role": "user", "content": parts}, {"role": "assistant", "content": "Hi"}
    outer = {"messages": [asked, said]}
    target = {"outer": outer, "message": said, "text": parts[1], "image": parts[0], "object": source}[level]
    if key in target:
        return
    target[key] = value
    try:
        if level != "outer":
            conversation = Conversation.from_messages(outer["messages"], allow_files=False)
        elif isinstance(value, bytes | Image.Image | np.ndarray):
            return
        else:
            path = tmp_path_factory.getbasetemp() / "outer.json"
            path.write_text(json.dumps(outer), encoding="utf-8")
            conversation = Conversation.from_file(path)
    except ConversationError:
        return
    assert MARKED in ChatTemplate().render(conversation).text


@pytest.mark.parametrize("key", ["image", "images", "response", "prompt", "conversation", "tools", "how to do it"])
def test_nothing_stands_beside_the_messages_of_a_file(tmp_path, key):
    path = tmp_path / "conversation.json"
    path.write_text(json.dumps({"messages": [user(text("Hello"))], key: "x.jpg"}))
    with pytest.raises(ConversationError, match=f"the object around the messages has the key '{key}'"):
        Conversation.from_file(path)
    path.write_text(json.dumps({"messages": [user(text("Hello"))], "model": "how to do it"}))
    with pytest.raises(ConversationError, match="under the key 'model', which would not be judged"):
        Conversation.from_file(path)


def test_files_can_be_forbidden_in_a_file_too(tmp_path):
    path = tmp_path / "conversation.json"
    path.write_text(json.dumps([user(image("cat.png"))]))
    with pytest.raises(ConversationError, match="message 1: an image is named by a path, which is not allowed here"):
        Conversation.from_file(path, allow_files=False)


@pytest.mark.parametrize("url", ["file:///a.png?b.png", "file:///a.png#b.png"])
def test_nothing_stands_behind_the_path_of_a_file_url(url):
    with pytest.raises(ConversationError, match=r"contains '\?' or '#'"):
        Conversation.from_messages([user(image(url))])


def said(role, content):
    return {"role": role, "content": content}


def test_consecutive_messages_of_one_role_are_joined_if_asked_for():
    messages = [said("user", "one"), user(image(b"a"), text("two")), said("assistant", "three"), said("user", "four")]
    messages += [said("user", "five"), said("user", "six")]
    with pytest.raises(ConversationError, match="message 2: the role is user, expected assistant"):
        Conversation.from_messages(messages)
    conversation = Conversation.from_messages(messages, merge_turns=True)
    assert [message.role for message in conversation.messages] == ["user", "assistant", "user"]
    assert [message.texts for message in conversation.messages] == [("one", "two"), ("three",), ("four", "five", "six")]
    assert conversation.messages[0].images == (b"a",)
    assert conversation.warnings == ()
    assert "User: four\n\nUser: five\n\nUser: six\n\n<END" in ChatTemplate().render(conversation).text


def test_merging_does_not_make_the_assistant_begin():
    with pytest.raises(ConversationError, match="message 1: the role is assistant, expected user"):
        Conversation.from_messages([said("assistant", "a"), said("assistant", "b")], merge_turns=True)


@pytest.mark.parametrize("role", ["system", "developer"])
def test_system_messages_are_left_out_if_asked_for_and_named(role):
    messages = [said(role, "Be brief."), said("user", "Hello"), said(role, 7), said("assistant", "Hi")]
    with pytest.raises(ConversationError, match=f"message 1: the role is {role}"):
        Conversation.from_messages(messages)
    conversation = Conversation.from_messages(messages, system="drop")
    assert conversation.texts == ("Hello", "Hi")
    assert conversation.warnings == ("2 system messages were left out of the conversation and not judged.",)
    assert ChatTemplate().render(conversation).warnings == conversation.warnings
    one = Conversation.from_messages([*messages[:1], user(image(b"a"), image(b"b"))], system="drop")
    assert one.warnings == ("1 system message was left out of the conversation and not judged.",)
    assert [part.warnings for part in one.per_image()] == [one.warnings] * 2


def test_errors_number_messages_as_they_were_given():
    messages = [said("system", "a"), said("user", "b"), said("user", "c")]
    with pytest.raises(ConversationError, match="message 3: the role is user, expected assistant"):
        Conversation.from_messages(messages, system="drop")
    with pytest.raises(ConversationError, match="message 3: the text is empty"):
        Conversation.from_messages([*messages[:2], said("user", " ")], system="drop", merge_turns=True)
    with pytest.raises(ConversationError, match="the conversation has no messages"):
        Conversation.from_messages(messages[:1], system="drop")


def test_a_system_treatment_that_is_not_known():
    with pytest.raises(ValueError, match="system is 'keep', expected 'refuse' or 'drop'"):
        Conversation.from_messages([said("user", "a")], system="keep")


def test_files_and_texts_take_the_same_options(tmp_path):
    path = tmp_path / "conversation.json"
    path.write_text(json.dumps([said("system", "a"), said("user", "b"), said("user", "c")]))
    for read, source in ((Conversation.from_file, path), (Conversation.from_json, path.read_text())):
        conversation = read(source, merge_turns=True, system="drop")
        assert conversation.texts == ("b", "c")
        assert len(conversation.warnings) == 1


@given(st.lists(st.sampled_from(["user", "assistant", "system", "developer"]), max_size=8))
@settings(deadline=None)
def test_no_text_is_lost_but_those_of_system_messages(roles):
    messages = [said(role, f"text {index}") for index, role in enumerate(roles)]
    kept = [index for index, role in enumerate(roles) if role in ("user", "assistant")]
    try:
        conversation = Conversation.from_messages(messages, merge_turns=True, system="drop")
    except ConversationError:
        assert not kept or roles[kept[0]] == "assistant"
        return
    assert conversation.texts == tuple(f"text {index}" for index in kept)
    assert conversation.messages[-1].role == roles[kept[-1]]
    assert bool(conversation.warnings) == (len(kept) < len(roles))
