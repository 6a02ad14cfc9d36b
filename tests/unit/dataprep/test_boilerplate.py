import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ragray.config_data import CleanConfig
from ragray.dataprep.boilerplate import common_lines, line_digest, lines_of, merge_lines, remove_lines

FOOTER = "This is no medical advice."
SETTINGS = CleanConfig(boilerplate_share=0.5, boilerplate_records=2)


def table(answers: list[str]) -> pa.Table:
    return pa.table({"id": [str(n) for n in range(len(answers))], "answer": pa.array(answers, pa.string())})


def cleaned(answers: list[str], settings: CleanConfig = SETTINGS) -> list[str]:
    lines = lines_of(table(answers))
    return remove_lines(table(answers), common_lines([lines], [len(answers)], settings))[0].column("answer").to_pylist()


def test_a_common_line_goes() -> None:
    assert cleaned([f"Drink water.\n\n{FOOTER}", f"{FOOTER}\nRest well now.", "Something else."]) == [
        "Drink water.", "Rest well now.", "Something else.",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "answers",
    [
        [FOOTER, FOOTER, FOOTER],  # nothing else is said
        [f"To reset it, do this.\n{FOOTER}"] * 3,  # equal answers are duplicates
        ["a\nClick Save.", "b\nClick Save.", "c\nClick Save."],  # short
        [f"{n}\n  ```\n{FOOTER}\n  ```" for n in range(3)],  # code
        [f"{n}\n{FOOTER}\n{n}" for n in range(3)],  # in the middle
        [f"{FOOTER}\n{FOOTER}", "b", "c", "d", "e"],  # in one record only
        [f"{FOOTER}\n---", f"{FOOTER}\n***"],
        *(
            [f"{line}\n{n}" for n in range(3)]
            for line in (
                f"- {FOOTER}",
                f"* {FOOTER}",
                f"2. {FOOTER}",
                f"(1) {FOOTER}",
                f"a) {FOOTER}",
                f"# {FOOTER}",
                f"| {FOOTER}",
                f"Step 1: {FOOTER}",
                f"`{FOOTER}`",
                f"**{FOOTER}**",
                "To reset your password today:",
                "sudo apt-get update --yes",
                "第一步：打开系统设置，进入网络。",
                "一、打开系统设置，进入网络。",
                "（1）打开系统设置，进入网络。",
                "• 打开系统设置，进入网络。",
                "遇到这种情况的解决方法如下：",
            )
        ),
    ],
)
def test_what_stays(answers: list[str]) -> None:
    assert cleaned(answers) == answers


def test_share_and_minimum() -> None:
    lines = lines_of(table([f"{n}\n{FOOTER}" for n in range(3)]))
    assert set(lines.column("line").to_pylist()) == {line_digest(FOOTER)} and len(lines) == 3
    for records, share, least, found in ((6, 0.5, 2, 1), (7, 0.5, 2, 0), (6, 0.5, 4, 0)):
        settings = CleanConfig(boilerplate_share=share, boilerplate_records=least)
        assert len(common_lines([lines], [records], settings)) == found


@given(st.lists(st.text("ab \n`~。", max_size=40), max_size=12), st.integers(1, 5))
def test_counts_of_parts_add_up(answers: list[str], size: int) -> None:
    whole = table(answers)
    parts = [lines_of(whole.slice(k, size)) for k in range(0, len(answers), size)]
    assert merge_lines(parts) == lines_of(whole)
    settings = CleanConfig(boilerplate_share=0.3, boilerplate_records=2)
    records = [min(size, len(answers) - k) for k in range(0, len(answers), size)]
    at_once = common_lines([lines_of(whole)], [len(answers)], settings)
    assert common_lines(parts, records, settings).tolist() == at_once.tolist()


def test_how_many_changed() -> None:
    whole = table([f"a\n{FOOTER}", FOOTER, "b\nc"])
    _, changed = remove_lines(whole, common_lines([lines_of(whole)], [1], CleanConfig(boilerplate_records=2)))
    assert changed == []
    lines = pa.array([line_digest(FOOTER)], pa.uint64()).to_numpy()
    assert remove_lines(whole, lines)[1] == [(f"a\n{FOOTER}", "a")]
