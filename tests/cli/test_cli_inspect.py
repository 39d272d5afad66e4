"""The inspect command reads headers and says what is in them."""

import json

import pytest
from tiny_checkpoint import IMAGE_TOKEN_ID, VOCABULARY, write_tiny_checkpoint

from visionward.convert import convert_checkpoint
from visionward.demonstration import DEMO_NOTICE
from visionward.diagnose.pair_summary import _template_summary
from visionward.runtime.guard.prompt import LLAMA_SPECIAL_TOKENS
from visionward.runtime.guard.template_sandbox import built_in_template


def test_json(run, model, tiny_pair):
    summary = json.loads(run("inspect", *model, "--json").stdout)
    text, mmproj = summary["text"], summary["mmproj"]
    assert summary["differences"] == []
    assert text["file"]["nbytes"] == tiny_pair.text.stat().st_size
    assert [count["type"] for count in text["file"]["types"]] == ["F32"]
    assert (text["layers"], text["width"], text["heads"], text["heads_kv"]) == (4, 256, 4, 2)
    assert (text["vocabulary"], text["vocab_rows"]) == (VOCABULARY + 8, VOCABULARY)
    assert text["image_token_id"] == IMAGE_TOKEN_ID
    assert text["end_tokens"] == ["<|end_of_text|>", "<|eom_id|>", "<|eot_id|>"]
    assert [category["code"] for category in text["policy"]][::12] == ["S1", "S13"]
    assert mmproj["config"]["vision"]["tile_size"] == 56
    assert mmproj["config"]["cross_attention"]["layers"] == [1, 4]
    assert text["file"]["text_hash"] == mmproj["file"]["text_hash"] == mmproj["config"]["text_hash"]


def test_text_for_people(run, model):
    lines = run("inspect", *model).stdout.splitlines()
    assert lines[-1] == "Pair: the files belong together"
    assert "  cross-attention     2 of 6 decoder layers: 1, 4" in lines
    assert "  layers              4 of width 256, MLP 512" in lines
    assert "  licence             not in the file" in lines


def test_files_that_do_not_belong_together(run, model, tmp_path):
    checkpoint = write_tiny_checkpoint(tmp_path / "other", seed=1, text_width=128)
    other = convert_checkpoint(checkpoint, tmp_path)
    result = run("inspect", *model[:2], "--mmproj", other.mmproj)
    assert result.exit_code == 0
    assert "the files do NOT belong together (content hash, width differ)" in result.stdout


def test_one_file_alone(run, model):
    for options, shown in ((model[:2], "Text file"), (model[2:], "mmproj file")):
        lines = run("inspect", *options).stdout.splitlines()
        assert lines[0].startswith(shown)
        assert lines[-1] == "Pair: only one file was given"


@pytest.mark.parametrize("swapped", [("--model", 3), ("--mmproj", 1)])
def test_swapped_files(run, model, swapped):
    option, index = swapped
    result = run("inspect", option, model[index])
    assert (result.exit_code, result.stdout, result.stderr.count("\n")) == (2, "", 1)


def test_a_truncated_file(run, tiny_pair, tmp_path):
    content = tiny_pair.text.read_bytes()
    for length in (0, 3, 40, 3000, len(content) - 64):
        (tmp_path / "cut.gguf").write_bytes(content[:length])
        result = run("inspect", "--model", tmp_path / "cut.gguf")
        assert (result.exit_code, result.stdout, result.stderr.count("\n")) == (2, "", 1), result.stderr


def test_template_whole(run, model):
    result = run("inspect", *model, "--template")
    assert result.stdout.startswith("{{ bos_token }}")
    # It is no guard's.
    summary = json.loads(run("inspect", *model, "--json").stdout)["text"]["template"]
    assert (summary["used"], summary["reads_policy"]) == (False, False)
    assert "does not ask for 'safe' or 'unsafe'" in summary["problems"][0]


def test_demo(run, model):
    assert run("inspect", "--demo").stdout.startswith(f"Note: {DEMO_NOTICE}")
    summary = json.loads(run("inspect", "--demo", "--json").stdout)
    assert (summary["text"]["file"]["demonstration"], summary["mmproj"]["file"]["demonstration"]) == (True, True)
    assert DEMO_NOTICE not in run("inspect", *model).stdout
    summary = json.loads(run("inspect", *model, "--json").stdout)
    assert (summary["text"]["file"]["demonstration"], summary["mmproj"]["config"]["demonstration"]) == (False, False)


def test_templates_and_policies():
    built_in = _template_summary(built_in_template(), list(LLAMA_SPECIAL_TOKENS))
    assert (built_in.used, built_in.reads_policy, built_in.takes_exclusions, built_in.takes_categories) == (True,) * 4
    assert built_in.problems == ()
    fixed = _template_summary(
        built_in_template().replace("categories if categories is defined and categories else", ""), []
    )
    assert not fixed.takes_categories
    broken = _template_summary("safe unsafe {{ 1 / 0 }}", list(LLAMA_SPECIAL_TOKENS))
    assert (broken.used, broken.takes_categories) == (False, False)
    syntax = _template_summary("safe unsafe {% if", list(LLAMA_SPECIAL_TOKENS))
    assert (syntax.used, syntax.reads_policy) == (False, False)
    none = _template_summary(None, [])
    assert (none.used, none.takes_categories, none.problems) == (False, True, ())
