import pytest
from hypothesis import given
from hypothesis import strategies as st

from ragray.dataprep.normalize import clean_line, clean_text, normal_form, repair_mojibake, run_steps, without_markup


@pytest.mark.parametrize(
    ("raw", "clean"),
    [
        ("Ｗｈａｔ　ｉｓ　１＋１？", "What is 1+1?"),
        ("端口是８０００，对吗？", "端口是8000，对吗？"),
        ("温度３７℃，面积２㎡，x²，½，①", "温度37℃，面积2㎡，x²，½，①"),
        ("（一）：好；坏！", "（一）：好；坏！"),
        ("wait… ﬁne", "wait… fine"),
    ],
)
def test_normal_form_keeps_meaning(raw: str, clean: str) -> None:
    assert clean_text(raw) == clean


@pytest.mark.parametrize(
    ("raw", "clean"),
    [
        ("<p>Use <b>pip</b> &amp; go.</p>", "Use pip & go."),
        ("a<br>b<br/>c", "a\nb\nc"),
        ("<ul><li>one</li><li>two</li></ul>", "one\n\ntwo"),
        ("x &lt;div&gt; y", "x <div> y"),
        ('<a href="u">here</a><script>evil()</script>', "here"),
        ("before<!-- hidden -->after", "beforeafter"),
        ("&amp;lt;", "&lt;"),
    ],
)
def test_html_becomes_text(raw: str, clean: str) -> None:
    assert clean_text(raw) == clean


@pytest.mark.parametrize(
    "text",
    [
        "Use List<int> or Map<K, V>.",
        "run ragray --config <name>",
        "a < b and c > d",
        "`<div>` is a tag",
        "```\n<p>kept</p>\n  indented\n```",
        "Vec<b> of bytes",
        "${{ secrets.TOKEN }} stays",
    ],
)
def test_code_is_not_eaten(text: str) -> None:
    assert clean_text(text) == text


def test_code_beside_real_tags_survives() -> None:
    assert clean_text("<p>Use List<int> and <name> here</p>") == "Use List<int> and <name> here"


@pytest.mark.parametrize("remnant", ["{{{ .company }}}", "{{ page.title }}", "{% include x.md %}"])
def test_template_remnants_go(remnant: str) -> None:
    assert clean_text(f"by us\n{remnant} {remnant}\nteam") == "by us\n\nteam"
    assert clean_text(f"write {remnant} there") == f"write {remnant} there"  # what the text is about
    assert clean_text('{{< copyable "sql" >}} run {{% x %}}it') == "run it"


@pytest.mark.parametrize(
    "text",
    [
        "请求 https://api.x.com/v1/list?id=5&timestamp=169&region=cn&section=2&currency=CNY&notify=1 即可。",
        "call foo(&copy, &reg)",
        "当 a <b 且 c> d 时触发",
        "WHERE x <a AND y> 5",
        "cat <a >b",
        "int a[1][2] = {{1, 2}};",
        "1. do:\n   ```sh\n   echo '<br>' {{ x }}\n   ```\n2. done",
        "Use ``a ` <br> b`` here",
    ],
)
def test_what_only_looks_like_markup_stays(text: str) -> None:
    assert clean_text(text).replace("\n", " ").split() == text.split()


def test_code_and_links_of_html_are_kept() -> None:
    assert clean_text("<p>So:</p><pre>for i in x:\n    print(i)</pre>") == "So:\n\n```\nfor i in x:\n    print(i)\n```"
    link = '点击<a href="https://dl.example.com/a?b=1&amp;c=2">这里</a>下载。'
    assert clean_text(link) == "点击这里 (https://dl.example.com/a?b=1&c=2)下载。"


def test_invisible_characters_and_spaces_go() -> None:
    assert clean_text("\ufeffa\u200bb\x07\u00a0 c\r\nd\u2028e\n\n\n\nf ") == "ab c\nd\ne\n\nf"
    assert clean_line(" a \n b\t c ") == "a b c"


@given(st.text())
def test_normal_form_is_idempotent(text: str) -> None:
    assert normal_form(normal_form(text)) == normal_form(text)


@given(st.text(max_size=80))
def test_clean_text_never_leaves_control_characters(text: str) -> None:
    cleaned = clean_text(text)
    assert cleaned == cleaned.strip()
    assert not any(ord(char) < 32 and char != "\n" for char in cleaned.replace("\t", ""))


def test_steps_run_in_their_order_and_are_named() -> None:
    steps = {"one": lambda text: text.replace("a", "b"), "two": lambda text: text.replace("b", "c"), "none": str}
    assert run_steps("a", steps) == ("c", ["one", "two"])
    assert run_steps("a `a`", {"one": steps["one"]}) == ("b `a`", ["one"])
    assert run_steps(" x ", {}) == ("x", ["whitespace"])


@pytest.mark.parametrize(
    ("raw", "repaired"),
    [("itâ€™s", "it’s"), ("cafÃ©", "café"), ("naïve “café”", "naïve “café”"), ("å…³äºŽå®‰è£…", "关于安装")],
)
def test_mojibake(raw: str, repaired: str) -> None:
    assert repair_mojibake(raw) == repaired


def test_an_entity_cannot_stand_for_held_code() -> None:
    assert clean_text("&#xe000;0&#xe001; `a  b`") == "0 `a  b`"
    assert clean_text("\ue0005\ue001") == "5"


@pytest.mark.parametrize(
    ("raw", "clean"),
    [
        ("x</b> y <p>z", "x</b> y \nz"),  # a closing tag alone is no markup
        ("<p>Vec<b> of</p>", "Vec<b> of"),
        ("<P>a</P><BR/>b", "a\n\nb"),
        ("<table><tr><td>a</td><td>b</td></tr></table>", "a b"),
    ],
)
def test_plain_tags(raw: str, clean: str) -> None:
    assert without_markup(raw).strip() == clean or clean_text(raw) == clean
