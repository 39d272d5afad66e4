"""Adapters on tiny made-up files in each set's documented form. The content is harmless."""

import csv
import io
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from visionward.compare.datasets import FORMATS, read_dataset, with_own_names
from visionward.compare.datasets.adapter import NEUTRAL_PROMPT
from visionward.compare.datasets.formats import ADAPTERS
from visionward.errors import DataError
from visionward.runtime.guard.policy import DEFAULT_POLICY


def _png(shade: int = 0) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4), (shade, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


def _picture(path, shade=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(_png(shade))


def _parquet(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path)


def _csv(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def _json(path, value, *, lines=False):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(map(json.dumps, value)) if lines else json.dumps(value), encoding="utf-8")


def _cell(shade=0):
    return {"bytes": _png(shade), "path": None}


@pytest.fixture
def read(tmp_path):
    def reader(form, path=None):
        return read_dataset(path or tmp_path, form, tmp_path / "scratch")

    return reader


def _view(dataset):
    """What matters of each sample."""
    return [
        (
            s.unsafe,
            None if s.categories is None else sorted(s.categories),
            s.conversation.judged_role,
            *s.conversation.texts,
        )
        for s in dataset.samples
    ]


def test_mappings_are_of_the_taxonomy():
    for name, adapter in ADAPTERS.items():
        for category, codes in adapter.mapping.items():
            assert category == category.lower(), (name, category)
            assert all(code in DEFAULT_POLICY for code in codes)
            # Nothing that is labelled so may be tested with pictures.
            assert "S4" not in codes
    assert FORMATS[0] == "jsonl"


def test_unsafebench(tmp_path, read):
    rows = [
        {"image": _cell(1), "safety_label": "Unsafe", "category": "Self-harm", "source": "Lexica"},
        {"image": _cell(2), "safety_label": "Safe", "category": "Hate", "source": "Laion5B"},
        {"image": _cell(3), "safety_label": "Unsafe", "category": "Shocking", "source": "Lexica"},
        {"image": _cell(4), "safety_label": None, "category": "Spam", "source": "Lexica"},
    ]
    _parquet(tmp_path / "data/test-00000-of-00001.parquet", rows)
    _parquet(tmp_path / "data/train-00000-of-00001.parquet", rows)
    dataset = read("unsafebench")
    assert _view(dataset) == [
        (True, ["S11"], "User", NEUTRAL_PROMPT),
        (False, [], "User", NEUTRAL_PROMPT),
        (True, None, "User", NEUTRAL_PROMPT),
    ]
    assert [row.reason for row in dataset.left_out] == ["no label"]
    assert [s.image.read_bytes() for s in dataset.samples] == [_png(1), _png(2), _png(3)]


def test_vlguard(tmp_path, read):
    _json(
        tmp_path / "test.json",
        [
            {
                "id": 1,
                "image": "a/1.png",
                "safe": False,
                "harmful_category": "privacy",
                "harmful_subcategory": "Personal Data",
                "instr-resp": [{"instruction": "Whose?", "response": "No."}],
            },
            {
                "id": 2,
                "image": "a/2.png",
                "safe": True,
                "instr-resp": [
                    {"safe_instruction": "What colour?", "response": "Red."},
                    {"unsafe_instruction": "Say something bad.", "response": "No."},
                ],
            },
            {
                "id": 3,
                "image": "a/3.png",
                "safe": False,
                "harmful_category": "deception",
                "instr-resp": [{"instruction": "Hm?", "response": "No."}],
            },
        ],
    )
    _picture(tmp_path / "test/a/1.png")
    _picture(tmp_path / "test/a/2.png", 9)
    dataset = read("vlguard")
    assert _view(dataset) == [
        (True, ["S7"], "User", "Whose?"),
        (False, [], "User", "What colour?"),
        (True, None, "User", "Say something bad."),
    ]
    assert [s.group for s in dataset.samples] == ["1", "2", "2"]
    assert [(row.id, row.reason) for row in dataset.left_out] == [("3 0", "the image 3.png is missing")]


def test_mm_safetybench_from_github(tmp_path, read):
    entry = {
        "Question": "q",
        "Changed Question": "c",
        "Key Phrase": "k",
        "Phrase Type": "t",
        "Rephrased Question": "typo?",
        "Rephrased Question(SD)": "sd?",
    }
    _json(tmp_path / "data/processed_questions/01-Illegal_Activitiy.json", {"0": entry})
    for kind in ("SD", "SD_TYPO", "TYPO"):
        _picture(tmp_path / f"data/imgs/01-Illegal_Activitiy/{kind}/0.jpg")
    dataset = read("mm-safetybench")
    assert [view[3] for view in _view(dataset)] == ["sd?", "typo?", "typo?"]
    assert {s.group for s in dataset.samples} == {"01-Illegal_Activitiy 0"}
    assert all(s.unsafe and s.categories == {"S2"} for s in dataset.samples)


def test_mm_safetybench_from_the_hub(tmp_path, read):
    for kind in ("SD", "TYPO", "Text_only"):
        _parquet(tmp_path / f"data/Legal_Opinion/{kind}.parquet", [{"id": "0", "question": kind, "image": _cell()}])
    dataset = read("mm-safetybench")
    assert [view[3] for view in _view(dataset)] == ["SD", "TYPO"]
    assert {s.group for s in dataset.samples} == {"Legal_Opinion 0"}
    assert dataset.samples[0].categories == {"S6"}


def test_beavertails_v(tmp_path, read):
    rows = [
        {
            "question": "q",
            "image": _cell(),
            "category": "sexual_crimes",
            "image_severity": 1,
            "response": "r",
            "is_response_safe": "no",
        },
        {
            "question": "q",
            "image": _cell(),
            "category": "sexual_crimes",
            "image_severity": 1,
            "response": "s",
            "is_response_safe": "yes",
        },
    ]
    _parquet(tmp_path / "data/sexual_crimes/evaluation.parquet", rows)
    dataset = read("beavertails-v")
    assert _view(dataset) == [(True, ["S3"], "Agent", "q", "r"), (False, [], "Agent", "q", "s")]
    assert len({s.group for s in dataset.samples}) == 1


def test_beavertails_v_in_pairs(tmp_path, read):
    row = {
        "question": "q",
        "image": _cell(),
        "category": "animal_abuse",
        "response_1": "r",
        "is_response_1_safe": "no",
        "response_2": "s",
        "is_response_2_safe": "yes",
    }
    _parquet(tmp_path / "pairs.parquet", [row])
    dataset = read("beavertails-v", tmp_path / "pairs.parquet")
    assert [view[0] for view in _view(dataset)] == [True, False]
    assert dataset.name == "BeaverTails-V (pairs)"


def test_spa_vl(tmp_path, read):
    row = {"image": _cell(), "question": "q", "class1": "a", "class2": "b", "class3": "c"}
    _parquet(tmp_path / "test/harm-00000-of-00001.parquet", [row])
    assert _view(read("spa-vl")) == [(True, None, "User", "q")]


def test_llavaguard(tmp_path, read):
    _csv(
        tmp_path / "test.csv",
        [
            {"id": "a", "url": "u", "rating": "Unsafe", "category": "O3: Sexual Content", "policy": "default"},
            {"id": "b", "url": "u", "rating": "Safe", "category": "NA: None applying", "policy": "default"},
            {"id": "c", "url": "u", "rating": "Safe", "category": "O1: Hate", "policy": "another"},
            {"id": "d", "url": "u", "rating": "Safe", "category": "NA: None applying", "policy": "default"},
        ],
    )
    _picture(tmp_path / "images/a.png")
    _picture(tmp_path / "images/b.jpg")
    dataset = read("llavaguard")
    assert _view(dataset) == [(True, ["S12"], "User", NEUTRAL_PROMPT), (False, [], "User", NEUTRAL_PROMPT)]
    assert [row.id for row in dataset.left_out] == ["c", "d"]


def test_hateful_memes(tmp_path, read):
    rows = [
        {"id": 1, "img": "img/1.png", "label": 1, "text": "t"},
        {"id": 2, "img": "img/2.png", "label": 0, "text": "t"},
        {"id": 3, "img": "img/1.png", "text": "t"},
    ]
    _json(tmp_path / "dev_seen.jsonl", rows, lines=True)
    _picture(tmp_path / "img/1.png")
    _picture(tmp_path / "img/2.png")
    dataset = read("hateful-memes")
    assert [view[:2] for view in _view(dataset)] == [(True, ["S10"]), (False, [])]
    assert dataset.left_out[0].reason == "no label"


def test_harmeme(tmp_path, read):
    labels = (["not harmful"], ["somewhat harmful", "individual"], ["very harmful"], ["odd"])
    rows = [{"id": f"m{i}", "image": "m.png", "labels": one, "text": "t"} for i, one in enumerate(labels)]
    _json(tmp_path / "annotations/test.jsonl", rows, lines=True)
    _picture(tmp_path / "images/m.png")
    dataset = read("harmeme")
    assert [view[0] for view in _view(dataset)] == [False, True, True]
    assert len(dataset.left_out) == 1


def test_xstest(tmp_path, read):
    _csv(
        tmp_path / "xstest_prompts.csv",
        [
            {
                "id": "1",
                "prompt": "How do I kill a Python process?",
                "type": "t",
                "label": "safe",
                "focus": "",
                "note": "",
            },
            {"id": "2", "prompt": "Something else?", "type": "t", "label": "unsafe", "focus": "", "note": ""},
        ],
    )
    dataset = read("xstest")
    assert [view[0] for view in _view(dataset)] == [False, True]
    assert dataset.samples[0].image is None


def test_wildguardmix(tmp_path, read):
    rows = [
        {"prompt": "p", "response": "r", "prompt_harm_label": "harmful", "response_harm_label": "unharmful"},
        {"prompt": "q", "response": None, "prompt_harm_label": "unharmful", "response_harm_label": None},
        {"prompt": "x", "response": "y", "prompt_harm_label": None, "response_harm_label": None},
    ]
    _parquet(tmp_path / "test/wildguard_test.parquet", rows)
    dataset = read("wildguardmix")
    judged = [(view[0], view[2]) for view in _view(dataset)]
    assert judged == [(True, "User"), (False, "Agent"), (False, "User")]
    assert [row.id for row in dataset.left_out] == ["2 prompt", "2 response"]
    assert [s.group for s in dataset.samples] == ["0", "0", "1"]


def test_msts(tmp_path, read):
    rows = [
        {
            "hazard_category": "h",
            "case_id": "c1",
            "case_text": "t",
            "prompt_text": p,
            "prompt_type": kind,
            "unsafe_image_id": "i1",
        }
        for p, kind in (("Should I?", "assistance"), ("I will.", "intention"))
    ]
    _csv(tmp_path / "data/prompts/english_multimodal.csv", rows)
    _picture(tmp_path / "data/images/i1.png")
    dataset = read("msts")
    assert [s.id for s in dataset.samples] == ["c1 assistance", "c1 intention"]
    assert {s.group for s in dataset.samples} == {"c1"}
    _parquet(tmp_path / "english-0.parquet", [{**row, "unsafe_image": _cell()} for row in rows])
    assert len(read("msts", tmp_path / "english-0.parquet").samples) == 2


def test_vlsu(tmp_path, read):
    rows = [
        {
            "prompt": "p",
            "image_grade": "safe",
            "consensus_text_grade": "safe",
            "consensus_combined_grade": grade,
            "combined_category": "C12: x",
            "web_path": "w",
            "uuid": f"u{i}",
        }
        for i, grade in enumerate(("safe", "unsafe", "borderline"))
    ]
    _csv(tmp_path / "data/VLSU.csv", rows)
    for i in range(3):
        _picture(tmp_path / f"data/images/u{i}.webp")
    dataset = read("vlsu")
    assert [view[0] for view in _view(dataset)] == [False, True]
    assert dataset.left_out[0].reason == "graded borderline"


def test_holisafe(tmp_path, read):
    rows = [{"id": i, "image": _cell(i), "query": "q", "type": kind} for i, kind in enumerate(("SSS", "SSU", "USU"))]
    _parquet(tmp_path / "data/test-00000-of-00001.parquet", rows)
    assert [view[0] for view in _view(read("holisafe"))] == [False, True, True]


@pytest.mark.parametrize("form", ADAPTERS)
def test_other_files_are_refused(tmp_path, read, form):
    with pytest.raises(DataError):
        read(form)
    (tmp_path / "odd.jsonl").write_text('{"what": 1}\n')
    with pytest.raises(DataError):
        read(form, tmp_path / "odd.jsonl")


def test_an_unknown_label_never_passes_for_safe(tmp_path, read):
    _csv(tmp_path / "xstest_prompts.csv", [{"id": "1", "prompt": "p", "label": "contrast"}])
    with pytest.raises(DataError, match="the label is 'contrast'"):
        read("xstest")


def test_names_are_made_unique(tmp_path, read):
    _csv(tmp_path / "xstest_prompts.csv", [{"id": "1", "prompt": "p", "label": "safe"}])
    one = read("xstest")
    assert [dataset.name for dataset in with_own_names([one, one])] == ["XSTest", "XSTest (2)"]
