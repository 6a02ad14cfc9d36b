"""The page for everybody: two languages, keyboard, names for screen readers, contrast, a phone."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from browsing import ask, expect, search  # type: ignore[import-not-found]
from several_models import with_adapters  # type: ignore[import-not-found]

from ragray.config_feedback import UserFeedbackConfig
from ragray.serve.feedback import Feedback
from ragray.serve.ingress import Door

VIEWS = ("chat", "search", "status")
# For each visible text: how far its colour is from what is behind it, WCAG 2.2, 1.4.3.
CONTRASTS = """() => {
  const parse = (color) => (color.match(/[\\d.]+/g) || []).map(Number);
  const light = ([r, g, b]) => {
    const part = (v) => { v /= 255; return v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4; };
    return 0.2126 * part(r) + 0.7152 * part(g) + 0.0722 * part(b);
  };
  const behind = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const color = parse(getComputedStyle(at).backgroundColor);
      if (color.length === 3 || color[3] > 0) return color;
    }
    return [255, 255, 255];
  };
  const found = [];
  for (const element of document.querySelectorAll("body *")) {
    const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
    if (!own || !element.checkVisibility()) continue;
    const style = getComputedStyle(element);
    const [a, b] = [light(parse(style.color)), light(behind(element))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    found.push([element.tagName + "." + element.className, element.textContent.slice(0, 30), ratio]);
  }
  return found;
}"""
# Controls without a name that a screen reader could say, and ids that occur twice.
NAMELESS = """() => {
  const name = (e) => e.getAttribute("aria-label") || e.textContent.trim() || (e.labels && [...e.labels]
    .map((label) => label.textContent.trim()).join(" ")) || (e.getAttribute("aria-labelledby") || "").split(" ")
    .map((id) => document.getElementById(id)?.textContent || "").join(" ").trim();
  const controls = document.querySelectorAll(
    "button, input, textarea, a, [role=tab], dialog, svg[role=img], [role=log]");
  const ids = [...document.querySelectorAll("[id]")].map((e) => e.id);
  const controlled = [...document.querySelectorAll("[aria-controls], [aria-labelledby]")].flatMap((e) =>
    ["aria-controls", "aria-labelledby"].map((a) => e.getAttribute(a)).filter((id) => id && !ids.includes(id)));
  return [...[...controls].filter((e) => !name(e)).map((e) => e.outerHTML.slice(0, 80)),
    ...ids.filter((id, place) => ids.indexOf(id) !== place), ...controlled];
}"""


def test_the_language_follows_the_browser_and_the_switch_is_remembered(door: Door, visit: Callable[..., Any]) -> None:
    page = visit(door, locale="zh-CN")
    expect(page.locator("html")).to_have_attribute("lang", "zh-CN")
    expect(page.get_by_role("tab", name="检索")).to_be_visible()
    turn = ask(page)
    expect(turn.locator("h2")).to_have_text("助手")
    page.get_by_role("button", name="切换到英文").click()
    expect(turn.locator("h2")).to_have_text("Assistant")
    expect(turn.locator(".note").first).to_have_text(re.compile(" s$"))
    page.reload()
    expect(page.locator("html")).to_have_attribute("lang", "en")
    expect(page.locator(".turn")).to_have_count(0)
    ask(page)


def test_the_tabs_and_the_skip_link_work_by_keyboard(door: Door, visit: Callable[..., Any]) -> None:
    page = visit(door)
    skip = page.get_by_role("link", name="Skip to content")
    first = page.evaluate("() => document.querySelector('a, button, input, textarea, [tabindex]').className")
    assert first == "skip" and skip.bounding_box()["x"] < 0
    skip.focus()
    assert skip.bounding_box()["x"] >= 0
    page.keyboard.press("Enter")
    expect(page.locator("#main")).to_be_focused()
    skip.focus()
    page.keyboard.press("Tab")
    expect(page.get_by_role("tab", name="Ask")).to_be_focused()
    for key, name in (("ArrowRight", "Search"), ("ArrowRight", "Status"), ("ArrowRight", "Ask"), ("End", "Status")):
        page.keyboard.press(key)
        expect(page.get_by_role("tab", name=name)).to_be_focused()
        expect(page.get_by_role("tabpanel")).to_have_count(1)
    outline = page.get_by_role("tab", name="Status").evaluate("e => getComputedStyle(e).outlineStyle")
    assert outline == "solid"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_can_be_read_and_every_control_has_a_name(
    door: Door, visit: Callable[..., Any], tmp_path: Path, scheme: str
) -> None:
    page = visit(
        replace(
            with_adapters(door, {"support-zh": "1" * 64}), feedback=Feedback(UserFeedbackConfig(folder=str(tmp_path)))
        ),
        color_scheme=scheme,
        reduced_motion="reduce",
    )
    ground = page.evaluate("() => getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, re.findall(r"\d+", ground)[:3])) < 200) == (scheme == "dark")
    ask(page).get_by_role("button", name="This answer helped").click()
    search(page, "install the server")
    for details in page.locator("summary").all():
        details.click()
    for view in VIEWS:
        page.locator(f"#tab-{view}").click()
        texts = page.evaluate(CONTRASTS)
        assert len(texts) > 5
        assert [text for text in texts if text[2] < 4.5] == []
        assert page.evaluate(NAMELESS) == []
    page.locator("#tab-search").click()
    page.locator("#hits h3 button").first.click()
    assert [text for text in page.evaluate(CONTRASTS) if text[2] < 4.5] == []


def test_a_phone_shows_everything_without_scrolling_sideways(
    door: Door, engine: Any, visit: Callable[..., Any]
) -> None:
    engine.text = "[1] " + "x" * 80
    several = with_adapters(door, {"support-zh-" + "x" * 60: "1" * 64})
    page = visit(several, viewport={"width": 320, "height": 640}, has_touch=True, is_mobile=True)
    label, question = page.locator("#ask label"), page.locator("#question")
    assert label.bounding_box()["y"] + label.bounding_box()["height"] <= question.bounding_box()["y"]
    ask(page, answer="x" * 80 + " [1]")
    assert label.bounding_box()["y"] + label.bounding_box()["height"] <= question.bounding_box()["y"]
    search(page, "install the server " + "x" * 60)
    for details in page.locator("summary").all():
        details.click()
    for view in VIEWS:
        page.locator(f"#tab-{view}").click()
        assert page.evaluate("() => document.documentElement.scrollWidth") <= 320
        wide = "() => [...document.querySelectorAll('main *')].filter(e => e.scrollWidth > e.clientWidth + 1)"
        assert page.evaluate(f"{wide}.filter(e => getComputedStyle(e).overflowX === 'auto').map(e => e.id)") == []
        for control in page.locator("button:visible, input:visible, textarea:visible, summary:visible").all():
            box = control.bounding_box()
            assert box["height"] >= 24 or "ref" in (control.get_attribute("class") or "")  # WCAG 2.2, 2.5.8
            assert box["x"] >= 0 and box["x"] + box["width"] <= 320
    page.locator("#tab-search").click()
    page.locator("#hits h3 button").first.click()
    assert page.get_by_role("dialog").bounding_box()["width"] <= 320
