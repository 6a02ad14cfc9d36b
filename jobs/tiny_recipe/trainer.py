"""Training: loss, curriculum, checkpoints that a stopped run goes on from, and the export."""

from __future__ import annotations

import json
import math
import random
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from tiny_recipe.planting import build_model, trainable
from tiny_recipe.rows import CHOICE, LEVELS, Row, RowMaker, answer_only, batches, example_row
from tiny_recipe.tasks import Size
from tiny_recipe.tokenizer import marker_id

if TYPE_CHECKING:
    import torch
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

CHOOSING_SHARE = 0.25  # of all tokens: real prompts of every task begin here at the latest
PEAK_RATE = 1e-3
EMBEDDING_RATE = 0.1  # of the peak
WINDOW = 300  # choices that a level is judged by


@dataclass(slots=True)
class State:
    """Where training stands; with the tensors, all that a resumed run needs."""

    level: int = 0
    step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    choices: list[float] = field(default_factory=list)  # the last random prompts: 1 = rightly chosen


def learning_rate(step: int, progress: float) -> float:
    """A share of the peak: warm-up over 30 steps, then 1, then linear to a fiftieth from 45 % on."""
    return min(1.0, (step + 1) / 30, max(0.02, (1 - progress) / 0.55))


@dataclass(frozen=True, slots=True)
class Predicted:
    """What the model made of a batch. The last three hold one entry for each token that counts, row by row."""

    ids: torch.Tensor  # int64 [batch, seq]
    weights: torch.Tensor  # float32 [batch, seq]
    middle: torch.Tensor  # [batch, seq, hidden], after the third layer
    logits: torch.Tensor  # float32 [counted, vocabulary]
    labels: torch.Tensor  # int64 [counted]
    kept: torch.Tensor  # float32 [counted]: the weights


class Trainer:
    """Model, probe, optimizer and curriculum, in a folder that a stopped run goes on from.

    The rows of a step come from seed, step and level: a resumed run sees what it would have seen.
    The probe is a linear reading of the third layer at each passage's number, taught
    to tell whether that passage is the right one; it is left out of the exported model.
    """

    def __init__(self, maker: RowMaker, work: Path, seed: int, tokens: int) -> None:
        import torch

        self.maker, self.work, self.seed, self.tokens = maker, work, seed, tokens
        self.model = build_model(maker.tokenizer, seed)
        self.probe = torch.nn.Linear(self.model.config.hidden_size, 1)
        self.state = State()
        self.masks = trainable(self.model)
        for name, parameter in self.model.named_parameters():
            parameter.requires_grad_(bool(self.masks[name].any()))
        self.optimizer = self.new_optimizer()
        if (work / "state.json").exists():
            self.load()

    @property
    def progress(self) -> float:
        """0 at the start of training, 1 at its end."""
        return self.state.tokens / self.tokens

    @property
    def done(self) -> bool:
        """Whether training is over."""
        return self.state.tokens >= self.tokens

    def new_optimizer(self) -> torch.optim.AdamW:
        """AdamW over what may change, the embedding more slowly; weight decay would wear the rest away."""
        import torch

        table = self.model.model.embed_tokens.weight
        others = [p for p in self.model.parameters() if p.requires_grad and p is not table]
        groups = [
            {"params": [table], "scale": EMBEDDING_RATE},
            {"params": [*others, *self.probe.parameters()], "scale": 1.0},
        ]
        return torch.optim.AdamW(groups, lr=PEAK_RATE, betas=(0.9, 0.98), weight_decay=0.0, fused=True)

    def named_tensors(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Every trained tensor with its name in the checkpoint."""
        for part, module in (("model", self.model), ("probe", self.probe)):
            for name, parameter in module.named_parameters():
                yield f"{part}/{name}", parameter

    def save(self) -> None:
        """Write the checkpoint: tensors first, then `state.json`, which names them."""
        import torch
        from safetensors.torch import save_file

        self.work.mkdir(parents=True, exist_ok=True)
        tensors = {name: tensor.detach() for name, tensor in self.named_tensors()}
        for index, slots in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer/{index}/{key}": torch.as_tensor(value) for key, value in slots.items()}
        name = f"tokens-{self.state.tokens}.safetensors"
        save_file({key: value.contiguous() for key, value in tensors.items()}, self.work / name)
        record = {"checkpoint": name, "seed": self.seed, "total": self.tokens, **asdict(self.state)}
        aside = self.work / "state.json.aside"
        aside.write_text(json.dumps(record, indent=1) + "\n")
        aside.replace(self.work / "state.json")
        for old in self.work.glob("tokens-*.safetensors"):
            if old.name != name:
                old.unlink()

    def load(self) -> None:
        """Go on from the checkpoint in the work folder."""
        import torch
        from safetensors.torch import load_file

        saved = json.loads((self.work / "state.json").read_text())
        tensors = load_file(self.work / saved.pop("checkpoint"))
        if (saved.pop("seed"), saved.pop("total")) != (self.seed, self.tokens):
            raise SystemExit(f"{self.work} was made with other --seed or --tokens: give another --work folder")
        self.state = State(**saved)
        with torch.no_grad():
            for name, tensor in self.named_tensors():
                tensor.copy_(tensors[name])
        slots: dict[int, dict[str, torch.Tensor]] = defaultdict(dict)
        for key, value in tensors.items():
            if key.startswith("optimizer/"):
                _, index, slot = key.split("/")
                slots[int(index)][slot] = value
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": dict(slots)})

    def predict(self, rows: Sequence[Row]) -> Predicted:
        """Run the model over rows of like length."""
        import torch

        longest = max(len(row.ids) for row in rows)
        ids = torch.tensor([row.ids + [0] * (longest - len(row.ids)) for row in rows])
        weights = torch.tensor([row.weights + [0.0] * (longest - len(row.ids)) for row in rows])
        counted = weights[:, 1:] > 0
        with torch.autocast("cpu", torch.bfloat16):
            out = self.model.model(input_ids=ids, use_cache=False, output_hidden_states=True)
            logits = self.model.lm_head(out.last_hidden_state[:, :-1][counted])
        labels, kept = ids[:, 1:][counted], weights[:, 1:][counted]
        return Predicted(ids, weights, out.hidden_states[3], logits.float(), labels, kept)

    def probe_loss(self, rows: Sequence[Row], seen: Predicted) -> torch.Tensor:
        """How ill the probe tells the right passage's number from the others, in nats; 0 where nothing is asked."""
        import torch
        from torch.nn import functional

        first = (seen.weights == CHOICE).float().argmax(1)
        right = seen.ids[torch.arange(len(rows)), first]
        asked = torch.tensor([row.task in ("ask", "quote", "absent", "marker") for row in rows])
        numbers = (seen.ids >= marker_id(1)) & (torch.arange(seen.ids.shape[1])[None] < first[:, None])
        numbers &= asked[:, None]
        if not bool(numbers.any()):
            return torch.zeros(())
        found = self.probe(seen.middle[numbers].float()).squeeze(-1)
        truth = (seen.ids == right[:, None])[numbers].float()
        return functional.binary_cross_entropy_with_logits(found, truth, pos_weight=torch.tensor(2.0))

    def train_step(self) -> float:
        """One optimizer step. Returns the weighted loss in nats."""
        import torch
        from torch.nn import functional

        rng = random.Random(f"{self.seed}/{self.state.step}/{self.state.level}")
        rows = self.maker.step(rng, self.progress, self.state.level)
        total, weight = 0.0, sum(sum(row.weights[1:]) for row in rows)
        for batch in batches(rows):
            seen = self.predict(batch)
            each = functional.cross_entropy(seen.logits, seen.labels, reduction="none")
            loss = (each * seen.kept).sum() / weight
            total += loss.item()
            loss = loss + self.probe_loss(batch, seen) * len(batch) / len(rows)
            self.note_choices(batch, seen)
            loss.backward()  # type: ignore[no-untyped-call]
        for name, parameter in self.model.named_parameters():
            if parameter.grad is not None:
                parameter.grad.mul_(self.masks[name])
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        share = learning_rate(self.state.step, self.progress)
        for group in self.optimizer.param_groups:
            group["lr"] = PEAK_RATE * share * group["scale"]
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.advance(sum(len(row.ids) for row in rows))
        return total

    def note_choices(self, rows: Sequence[Row], seen: Predicted) -> None:
        """Keep, for each random prompt, whether the first token of its answer is foreseen."""
        right = (seen.logits.argmax(-1) == seen.labels)[seen.kept == CHOICE]
        opened = [row.task for row in rows if CHOICE in row.weights]
        marked = [float(hit) for task, hit in zip(opened, right, strict=True) if task == "marker"]
        self.state.choices = (self.state.choices + marked)[-WINDOW:]

    def advance(self, tokens: int) -> None:
        """Count a step; go to the next level when this one is mastered, to real prompts at the latest when due."""
        state = self.state
        state.step += 1
        state.tokens += tokens
        if state.level < len(LEVELS):
            mastered = sum(state.choices) > LEVELS[state.level].enough * WINDOW
            if self.progress > CHOOSING_SHARE:
                state.level = len(LEVELS)
            elif mastered:
                state.level, state.choices = state.level + 1, []

    def run(self, minutes: float = math.inf, every: int = 300) -> None:
        """Train to the end or for `minutes`; save and evaluate every `every` steps, save at the end."""
        began, before, steps = time.monotonic(), self.state.seconds, 0
        while not self.done and time.monotonic() - began < 60 * minutes:
            loss = self.train_step()
            steps += 1
            self.state.seconds = before + time.monotonic() - began
            if steps % 10 == 0:
                state, chosen = self.state, self.state.choices
                at = f"{state.seconds:.0f} s, step {state.step}, level {state.level}"
                rate = state.tokens / state.seconds
                hits = sum(chosen) / max(1, len(chosen))
                print(f"{at}: loss {loss:.3f}, chosen {hits:.2f}, {rate:.0f} tok/s", flush=True)
            if steps % every == 0:
                self.save()
                print(json.dumps(self.evaluate(60)), flush=True)
        self.save()

    def evaluate(self, count: int, characters: int = 450) -> dict[str, dict[str, float]]:
        """Per task, on held-out items: shares of right first tokens, right tokens (teacher-forced), exact answers."""
        import torch

        figures: dict[str, dict[str, float]] = {}
        size = Size(4, characters)
        library = self.maker.library
        for task in ("ask", "absent", "quote"):
            rng = random.Random(5)
            examples = [library.example(rng, task, item, size) for item in library.held[:count]]
            rows = [answer_only(example_row(example, self.maker.tokenizer)) for example in examples]
            rows = [row for row in rows if len(row.ids) <= self.model.config.max_position_embeddings]
            right: list[torch.Tensor] = []
            with torch.no_grad():
                for row in rows:
                    seen = self.predict([row])
                    right.append((seen.logits.argmax(-1) == seen.labels).float())
            figures[task] = {
                "first": sum(float(each[0]) for each in right) / len(right),
                "token": float(torch.cat(right).mean()),
                "exact": sum(float(each.min()) for each in right) / len(right),
            }
        return figures


def export(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, out: Path) -> None:
    """Write the model in bfloat16 (to be read as float32) and the tokenizer, aside, then rename into place.

    A `README.md` already in `out` is kept.
    """
    import shutil

    from transformers import GenerationConfig

    aside = out.with_name(f".{out.name}.aside")
    shutil.rmtree(aside, ignore_errors=True)
    model.generation_config = GenerationConfig(  # type: ignore[no-untyped-call]
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, do_sample=False
    )
    model.bfloat16().save_pretrained(aside)
    tokenizer.save_pretrained(aside)
    changes = {
        "config.json": ("dtype", "float32"),
        "tokenizer_config.json": ("tokenizer_class", "PreTrainedTokenizerFast"),
    }
    for name, (key, value) in changes.items():
        record = json.loads((aside / name).read_text()) | {key: value}
        record = {key: record[key] for key in record if key not in ("is_local", "local_files_only")}
        (aside / name).write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n")
    if (out / "README.md").exists():
        shutil.copy(out / "README.md", aside / "README.md")
    shutil.rmtree(out, ignore_errors=True)
    aside.rename(out)
