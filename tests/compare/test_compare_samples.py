"""Reading samples: what a line may hold, and what is refused."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from visionward.errors import DataError
from visionward.runtime.guard.conversation import Conversation
from visionward.runtime.guard.samples import Sample, read_samples


def _write(folder, *lines):
    path = folder / "samples.jsonl"
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines), encoding="utf-8")
    return path


def test_every_key(tmp_path):
    path = _write(
        tmp_path,
        {
            "id": 7,
            "group": "g",
            "image": "a/b.png",
            "prompt": "p",
            "response": "r",
            "label": "unsafe",
            "categories": ["S9", "S1"],
            "extra": {"source": "x"},
        },
        "",
        {"messages": [{"role": "user", "content": "hello"}], "label": "safe"},
        {"prompt": "unlabelled"},
    )
    first, second, third = read_samples(path)
    assert (first.id, first.group, first.unsafe, first.categories) == ("7", "g", True, {"S1", "S9"})
    assert first.image == tmp_path / "a/b.png"
    assert first.conversation.judged_role == "Agent"
    assert (second.id, second.group, second.unsafe, second.categories) == ("line 3", "line 3", False, frozenset())
    assert (third.unsafe, third.categories, third.image) == (None, None, None)


def test_images_in_messages_are_relative_to_the_file(tmp_path):
    content = [{"type": "image_url", "image_url": {"url": "pic.png"}}, {"type": "text", "text": "what?"}]
    (sample,) = read_samples(_write(tmp_path, {"messages": [{"role": "user", "content": content}], "label": "safe"}))
    assert sample.image == tmp_path / "pic.png"


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{", "not JSON"),
        ("[]", "expected an object"),
        ('{"prompt": "a", "prompt": "b"}', "the key 'prompt' is repeated"),
        ({"prompt": "a", "lable": "safe"}, "unknown key 'lable'"),
        ({"prompt": "a", "label": "Safe"}, "the label is 'Safe'"),
        ({"prompt": "a", "label": 0}, "the label is 0"),
        ({"prompt": "a", "label": "safe", "categories": ["S1"]}, "the label is not 'unsafe'"),
        ({"prompt": "a", "label": "unsafe", "categories": "S1"}, "not a list"),
        ({"prompt": "a", "label": "unsafe", "categories": ["violence"]}, "malformed"),
        ({"label": "safe"}, "neither a prompt nor an image"),
        ({"prompt": "a", "messages": []}, "excludes"),
        ({"prompt": "a", "image": 3}, "'image' is 3"),
        ({"prompt": "a", "id": " "}, "'id' is"),
        ({"prompt": "a", "id": True}, "'id' is"),
        ('{"prompt": NaN}', "NaN is not JSON"),
        (f'{{"prompt": "a", "id": {"7" * 5000}}}', "a number with 5000 digits is too large"),
        ({"messages": [{"role": "user", "content": "a"}], "image": "x.jpg"}, "excludes"),
        ({"messages": [{"role": "user", "content": "a", "images": ["x.jpg"]}]}, "the key 'images'"),
        ({"messages": [{"role": "user", "content": "a", "name": "b"}]}, "under the key 'name'"),
        ({"messages": [{"role": "user", "content": "a"}], "conversation": []}, "unknown key 'conversation'"),
    ],
)
def test_refusals_name_the_line(tmp_path, line, reason):
    with pytest.raises(DataError, match="line 2: ") as refused:
        read_samples(_write(tmp_path, {"prompt": "fine"}, line))
    assert reason in str(refused.value)


def test_ids_are_unique(tmp_path):
    with pytest.raises(DataError, match="duplicate id"):
        read_samples(_write(tmp_path, {"id": "a", "prompt": "x"}, {"id": "a", "prompt": "y"}))


def test_files_that_hold_nothing(tmp_path):
    with pytest.raises(DataError, match="no samples"):
        read_samples(_write(tmp_path, ""))
    with pytest.raises(DataError, match="No such file"):
        read_samples(tmp_path / "missing.jsonl")
    (tmp_path / "bytes").write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match="not UTF-8"):
        read_samples(tmp_path / "bytes")


def test_the_digest_is_of_what_is_judged(tmp_path):
    picture = tmp_path / "p.png"
    picture.write_bytes(b"one")

    def digest(prompt="p", response=None, **fields):
        conversation = Conversation.from_prompt(prompt, response, picture)
        return Sample.make(fields.pop("identifier", "i"), conversation, unsafe=fields.get("unsafe")).digest()

    first = digest()
    assert digest(identifier="other", unsafe=True) == first
    assert digest(prompt="q") != first
    assert digest(response="p") != first
    picture.write_bytes(b"two")
    assert digest() != first
    picture.unlink()
    assert digest() != first


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1), min_size=1))
def test_texts_come_back(tmp_path_factory, texts):
    texts = [text for text in texts if text.strip()]
    if not texts:
        return
    path = _write(tmp_path_factory.mktemp("texts"), *({"prompt": text} for text in texts))
    assert [sample.conversation.texts for sample in read_samples(path)] == [(text,) for text in texts]
