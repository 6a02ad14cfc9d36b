"""A small evaluation with known figures: four answerable questions, two that nothing answers."""

from ragray.evaluation.answers import Given
from ragray.evaluation.predictions import Prediction
from ragray.evaluation.scoring import score_fully
from ragray.schema import Passage

PASSAGES = {
    "zh-1": Passage("zh-1", "如何安装？", "运行 make demo 即可安装。", "zh", "faq.jsonl", "faq"),
    "zh-2": Passage("zh-2", "如何停止？", "按 Ctrl-C 停止。", "zh", "faq.jsonl", "faq"),
    "en-1": Passage("en-1", "How is it tested?", "Run make test.", "en", "faq.csv", "faq"),
    "en-2": Passage("en-2", "Where | are <b>logs</b>?", "In the *folder* logs. [x](http://x)", "en", "faq.csv", "faq"),
}
# query -> language, question, references, right passages
QUESTIONS = {
    "q1": ("zh", "怎么安装", ("运行 make demo 即可安装。",), ("zh-1",)),
    "q2": ("zh", "怎么停止", ("按 Ctrl-C 停止。",), ("zh-2",)),
    "q3": ("en", "testing it", ("Run make test.",), ("en-1",)),
    "q4": ("en", "logs | <script>alert(1)</script>", ("In the *folder* logs. [x](http://x)",), ("en-2",)),
    "q5": ("en", "Is it sold in shops?", (), ()),
    "q6": ("zh", "股价多少", (), ()),
}
SHOWN = {
    "q1": ("zh-1", "zh-2"),
    "q2": ("zh-2", "zh-1"),
    "q3": ("en-2", "zh-1"),
    "q4": ("en-2", "en-1"),
    "q5": ("en-1", "en-2"),
    "q6": ("zh-2", "zh-1"),
}
# what the tuned model with retrieval did: text, cited, declined_by
TUNED = {
    "q1": ("运行 make demo 即可安装。 [1]", ("zh-1",), ""),  # exact
    "q2": ("文档没有回答这个问题。", (), "model"),
    "q3": ("In the folder. [1]", ("en-2",), ""),  # the right passage was not shown
    "q4": ("Run make test. [2]", ("en-1",), ""),  # wrong passage cited
    "q5": ("The documents do not answer this question.", (), "retrieval"),
    "q6": ("按 Ctrl-C 停止。 [1]", ("zh-2",), ""),  # invented
}


def prediction(query_id: str, cell: str, text: str, cited: tuple[str, ...], declined_by: str) -> Prediction:
    lang, question, references, right = QUESTIONS[query_id]
    closed = cell.endswith("closed_book")
    texts = [] if closed else [f"{PASSAGES[d].title}\n{PASSAGES[d].text}" for d in SHOWN[query_id]]
    given = Given(text, bool(declined_by), () if closed else cited, closed_book=closed)
    return Prediction(
        query_id=query_id,
        cell=cell,
        lang=lang,
        question=question,
        references=references,
        right=right,
        shown=() if closed else SHOWN[query_id],
        probability=None if closed else 0.8,
        text=text,
        cited=given.cited,
        declined_by=declined_by,
        prompt_tokens=20,
        completion_tokens=5,
        finish_reason="stop",
        scores=score_fully(given, references, right, lang, texts),
    )
