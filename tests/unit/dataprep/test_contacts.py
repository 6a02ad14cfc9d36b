import pytest

from ragray.dataprep.contacts import is_contact, without_contacts


@pytest.mark.parametrize(
    ("answer", "rest"),
    [
        ("多喝水。如有问题请联系我们。", "多喝水。"),
        ("先重启。需要有协助可以与我们联系。", "先重启。"),
        ("多喝水\n休息\n咨询热线：010-12345678 微信：abc12345\n请联系我们。", "多喝水\n休息"),
        ("Restart it. Contact us at 1-800-555-1234 or a@b.com.", "Restart it."),
        ("It is v1.2.3. Email us.", "It is v1.2.3."),
    ],
)
def test_contact_sentences_go(answer: str, rest: str) -> None:
    assert without_contacts(answer, "怎么办") == rest


@pytest.mark.parametrize(
    "answer",
    [
        "拨打急救电话120。",
        "请拨打电话 010-12345678。名额有限，先到先得。",  # what follows is no contact
        "Call us at 1-800-555-1234. We are available 24/7.",
        "请联系客服。",  # nothing else answers
        "先重启。如果仍然不行，请联系客服。",
        "For more information, visit https://example.org/z.",
        "Call your doctor at once. Then call f(x).",
        "Use `call 1234567`. Then wait.",
    ],
)
def test_what_says_more_stays(answer: str) -> None:
    assert without_contacts(answer, "怎么办") == answer


@pytest.mark.parametrize("question", ["客服电话是多少？", "How do I contact support?"])
def test_a_contact_that_was_asked_for_stays(question: str) -> None:
    answer = "We are open on Monday. Contact us at a@b.com. 请联系我们。"
    assert without_contacts(answer, question) == answer


def test_is_contact() -> None:
    assert is_contact("请加微信：abc12345") and not is_contact("微信支付失败")
