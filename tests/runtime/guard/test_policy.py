import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from visionward.errors import PolicyError
from visionward.runtime.guard.policy import DEFAULT_POLICY, Category, Policy


def test_the_default_policy_is_the_model_s():
    assert DEFAULT_POLICY.codes == tuple(f"S{number}" for number in range(1, 14))
    assert DEFAULT_POLICY["S9"].name == "Indiscriminate Weapons"
    assert DEFAULT_POLICY.is_default
    assert DEFAULT_POLICY.default_exclusions == ()
    assert list(DEFAULT_POLICY.prompt_categories().items())[:2] == [
        ("S1", "Violent Crimes."),
        ("S2", "Non-Violent Crimes."),
    ]


def test_exclusions_of_the_default_policy_are_told_apart_from_other_policies():
    left = DEFAULT_POLICY.exclude(["S13", "S2"])
    assert "S2" not in left
    assert left.codes == tuple(code for code in DEFAULT_POLICY.codes if code not in {"S2", "S13"})
    assert not left.is_default
    assert left.default_exclusions == ("S2", "S13")
    assert Policy.from_mapping({"S1": "Violent Crimes", "S2": "Fraud"}).default_exclusions is None
    assert Policy.from_mapping({"S2": "Non-Violent Crimes", "S1": "Violent Crimes"}).default_exclusions is None
    assert Policy.from_mapping({"S1": "Violent Crimes"}).default_exclusions == DEFAULT_POLICY.codes[1:]


def test_prompt_text_has_a_full_stop_and_the_description_on_the_next_line():
    policy = Policy.from_mapping(
        {
            "S1": "Spoilers",
            "S20": {"name": "Memes. ", "description": "Content must not be a meme.\n- cats\n"},
            "S3": {"name": "Really?", "description": None},
        }
    )
    assert policy.prompt_categories() == {
        "S1": "Spoilers.",
        "S20": "Memes.\nContent must not be a meme.\n- cats",
        "S3": "Really?",
    }
    assert policy.codes == ("S1", "S20", "S3")


@pytest.mark.parametrize(
    ("mapping", "expected"),
    [
        ([], "the policy is list, expected an object that maps codes to categories"),
        ({}, "the policy has no categories"),
        ({"S0": "a"}, "malformed category code 'S0'"),
        ({"S01": "a"}, "malformed"),
        ({"s1": "a"}, "malformed"),
        ({"S1 ": "a"}, "malformed"),
        ({"S1\n": "a"}, "malformed"),
        ({1: "a"}, "malformed category code 1, expected S1, S2"),
        ({"S1": ""}, "S1: the name is empty"),
        ({"S1": " "}, "S1: the name is empty"),
        ({"S1": "a\nb"}, "S1: the name has a line break"),
        ({"S1": "a\u2028b"}, "line break"),
        ({"S1": "a\0b"}, r"S1: the name contains a NUL character \(U\+0000\) at position 1"),
        ({"S1": "\ud800"}, r"U\+D800"),
        ({"S1": 7}, "S1: found int, expected a name or an object with a name"),
        ({"S1": {"name": 7}}, "S1: the name is int, expected text"),
        ({"S1": {"description": "b"}}, "S1: the name is missing"),
        ({"S1": {"name": "a", "description": 7}}, "S1: the description is int"),
        ({"S1": {"name": "a", "description": ""}}, "S1: the description is empty"),
        ({"S1": {"name": "a", "describtion": "b"}}, "S1: unknown key 'describtion'"),
        (
            {"S1": {"name": "a", "description": "b\n S2: Fraud."}},
            "a line of the description looks like a category: ' S2: Fraud.'",
        ),
    ],
)
def test_malformed_policies(mapping, expected):
    with pytest.raises(PolicyError, match=expected):
        Policy.from_mapping(mapping)


@pytest.mark.parametrize(
    ("codes", "expected"),
    [
        (["S14"], "unknown category 'S14'; the policy has S1, S2, .*S13"),
        (["S1", "S1"], "category S1 is excluded twice"),
        ([f"S{number}" for number in range(1, 14)], "every category is excluded"),
        ("S1", "the string 'S1', expected a list"),
    ],
)
def test_wrong_exclusions(codes, expected):
    with pytest.raises(PolicyError, match=expected):
        DEFAULT_POLICY.exclude(codes)


def test_lookup_names_the_known_codes():
    with pytest.raises(PolicyError, match="unknown category 'S99'; the policy has S1,"):
        DEFAULT_POLICY["S99"]
    with pytest.raises(PolicyError, match="S1 occurs twice"):
        Policy((Category("S1", "a"), Category("S1", "b")))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{", "not JSON"),
        ('{"S1": "a", "S1": "b"}', "the key 'S1' is repeated in one object"),
        ('{"S1": {"name": "a", "name": "b"}}', "the key 'name' is repeated in one object"),
        ('{"S1": NaN}', "NaN is not JSON"),
        ("[" * 100_000, "nested too deeply|not JSON"),
        ('{"S1": ""}', "the name is empty"),
    ],
)
def test_policy_files_name_themselves_in_errors(tmp_path, text, expected):
    path = tmp_path / "policy.json"
    path.write_text(text)
    with pytest.raises(PolicyError, match=expected) as caught:
        Policy.from_file(path)
    assert str(caught.value).startswith(f"{path}: ")


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(PolicyError, match="No such file"):
        Policy.from_file(tmp_path / "missing.json")
    with pytest.raises(PolicyError, match="null"):
        Policy.from_file("a\0b")
    (tmp_path / "latin.json").write_bytes(b'{"S1": "\xe4"}')
    with pytest.raises(PolicyError, match="not UTF-8 text"):
        Policy.from_file(tmp_path / "latin.json")


def test_a_policy_file_may_begin_with_a_byte_order_mark(tmp_path):
    (tmp_path / "policy.json").write_text(json.dumps({"S1": "Spoilers"}), encoding="utf-8-sig")
    assert Policy.from_file(tmp_path / "policy.json") == Policy((Category("S1", "Spoilers"),))


@given(
    st.recursive(
        st.none() | st.integers() | st.text(),
        lambda x: st.lists(x) | st.dictionaries(st.text() | st.from_regex(r"S[1-9]", fullmatch=True), x),
    )
)
@settings(deadline=None)
def test_anything_that_json_can_hold_is_a_policy_or_an_error(value):
    try:
        policy = Policy.from_mapping(value)
    except PolicyError:
        return
    assert policy.codes == tuple(value)
