"""Make the bundled model `ragray-tiny` from nothing: tokenizer, tasks, training, export.

In: a data folder (`--data`, laid out as its README says). Out: a folder that `AutoModelForCausalLM` and
`AutoTokenizer` load (`--out`), and a work folder (`--work`) whose checkpoint a stopped run goes on from.

Why it exists: the demo and the tests need a model that reads ragray's prompts on two CPU cores. A few
million parameters cannot know much, but they can do the two things that answering from passages takes:
choosing the passage whose title matches the question, and copying what follows its number. The second is
planted in the first weights and kept (`plant_induction`); the first is learned, from two random titles of
a few tokens, a level at a time, each only when the last is mastered, then from real prompts that grow.
Mixed prompts from random weights taught neither.
Source: Olsson et al. 2022, "In-context Learning and Induction Heads", arXiv:2209.11895.

    python jobs/pretrain_tiny.py --data DATA --work WORK --out data/models/ragray-tiny
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tiny_recipe.corpus import load_items
from tiny_recipe.rows import RowMaker
from tiny_recipe.tasks import Library
from tiny_recipe.tokenizer import tokenizer_texts, train_tokenizer
from tiny_recipe.trainer import Trainer, export


def main(argv: Sequence[str] | None = None) -> None:
    """Read the arguments, train, export."""
    import torch
    from transformers import PreTrainedTokenizerFast

    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="data folder, laid out as its README says")
    parser.add_argument("--work", type=Path, required=True, help="folder for the tokenizer and the checkpoint")
    parser.add_argument("--out", type=Path, required=True, help="folder of the finished model")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tokens", type=int, default=6_000_000, help="tokens of the whole training")
    parser.add_argument("--minutes", type=float, default=math.inf, help="stop after so long; run again to go on")
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args(argv)
    torch.set_num_threads(given.threads)
    if not (given.work / "tokenizer").exists():
        train_tokenizer(tokenizer_texts(given.data)).save_pretrained(given.work / "tokenizer")
    tokenizer = PreTrainedTokenizerFast.from_pretrained(given.work / "tokenizer")
    maker = RowMaker(Library(load_items(given.data, given.seed)), tokenizer)
    trainer = Trainer(maker, given.work, given.seed, given.tokens)
    trainer.run(given.minutes)
    if trainer.done:
        print(json.dumps(trainer.evaluate(300)), flush=True)
        export(trainer.model, tokenizer, given.out)


if __name__ == "__main__":
    main()
