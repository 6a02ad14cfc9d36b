import json

import pytest

from ragray.dataprep import rewording
from ragray.dataprep.rewording import BadReplyError, parse_rewordings, rewording_key, rewording_messages


@pytest.mark.parametrize(
    "reply",
    [
        '["How?", "Why so?"]',
        ' [ "How?",\n"Why so?" ] \n',
        '```json\n["How?", "Why so?"]\n```',
        '```\n["How?", "Why so?"]\n```',
        '<think>Let me see: ["no"]</think>\n["How?", "Why so?"]',
    ],
)
def test_good_replies(reply: str) -> None:
    assert parse_rewordings(reply, 2) == ["How?", "Why so?"]


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        ("", "not_json"),
        ('Sure! ["How?", "Why so?"]', "not_json"),
        ('["How?", "Why so?"] Done.', "not_json"),
        ('["How?", "Why', "not_json"),
        ("[" * 200_000, "not_json"),
        ('{"questions": ["How?", "Why so?"]}', "not_an_array"),
        ('"How?"', "not_an_array"),
        ('["How?"]', "wrong_count"),
        ('["How?", "Why?", "When?"]', "wrong_count"),
        ('["How?", 5]', "not_text"),
        ('["How?", " "]', "not_text"),
        ('["How?", "Why?\\nBecause."]', "not_text"),
        ('["How?", "\\u202egnikcarT"]', "not_text"),
        (json.dumps(["How?", "x" * 501]), "too_long"),
    ],
)
def test_bad_replies_say_why(reply: str, reason: str) -> None:
    with pytest.raises(BadReplyError, match=f"^{reason}$"):
        parse_rewordings(reply, 2)


def test_messages_hold_the_question_and_the_count() -> None:
    for lang in ("en", "zh"):
        system, user = rewording_messages("What is {count} in C++?", lang, 4)
        assert "4" in system["content"] and user["content"].endswith("What is {count} in C++?")


def test_keys_follow_all_that_a_reply_depends_on(monkeypatch: pytest.MonkeyPatch) -> None:
    base = rewording_key("m", "q", "en", 3)
    assert base == rewording_key("m", "q", "en", 3)
    others = {
        rewording_key("n", "q", "en", 3),
        rewording_key("m", "r", "en", 3),
        rewording_key("m", "q", "zh", 3),
        rewording_key("m", "q", "en", 4),
    }
    monkeypatch.setattr(rewording, "PROMPT_VERSION", 2)
    assert len(others | {base, rewording_key("m", "q", "en", 3)}) == 6
