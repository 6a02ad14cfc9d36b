"""The template that training used, and whether a model is asked with the same one.

In: a tokenizer. Out: digests of its chat template and of our prompt, kept in training_template.json of a merged model,
which goes with it into engines. A model that is asked by another template than it was trained with answers worse
without any error, so every engine compares them when it is built and when it is loaded.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING

from ragray import prompt
from ragray.errors import EngineError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TEMPLATE = "training_template.json"

_WHAT = {"chat_template": "chat template", "prompt": "prompt (ragray/prompt.py)"}
_PASSAGES = [("Refunds", "[1] Open the order and press <|Refund|>."), ("退款", "打开订单，点击退款。")]


def template_digests(tokenizer: PreTrainedTokenizerBase) -> dict[str, str]:
    """SHA-256 of the chat template's text, and of what our prompt makes of fixed questions in both languages."""
    template = tokenizer.chat_template
    text = template if isinstance(template, str) else json.dumps(template, sort_keys=True)
    chats = [
        [*prompt.messages("How?", passages, lang), prompt.target("So.", 1 if passages else None), prompt.DECLINE[lang]]
        for lang in ("en", "zh")
        for passages in (_PASSAGES, [], None)
    ]
    shown = json.dumps(chats, ensure_ascii=False, sort_keys=True)
    return {name: hashlib.sha256(t.encode()).hexdigest() for name, t in (("chat_template", text), ("prompt", shown))}


def check_template(folder: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    """Check that a model is about to be asked as it was trained; a model that ragray did not train may be asked anyhow.

    Raises:
        EngineError: the chat template or the prompt is another one.
    """
    path = folder / TEMPLATE
    if not path.is_file():
        return
    trained, found = json.loads(path.read_text(encoding="utf-8")), template_digests(tokenizer)
    for name, what in _WHAT.items():
        if trained.get(name) != found[name]:
            raise EngineError(
                f"{folder}: trained with another {what} than it would be asked with now",
                "put the chat template of the base model back"
                if name == "chat_template"
                else "use the ragray that trained it, or train, merge and build again with this one: "
                "`ragray run --config FILE`",
            )
