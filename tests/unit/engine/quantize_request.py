"""A request about the tiny model: what methods are calibrated on, compared by and asked."""

from pathlib import Path

from tiny_model import TEXTS

from ragray.engine.quantize_protocol import HeldOut, Material, Request


def make_request(method: str, model: Path, out: Path, **more) -> Request:
    from ragray.engine.tokens import load_tokenizer

    tokenizer = load_tokenizer(model)
    ids = [tuple(tokenizer(text)["input_ids"]) for text in TEXTS[:5]]
    material = Material(
        calibration=tuple(each[:40] for each in ids),
        held_out=tuple(HeldOut(each[:30], 20) for each in ids[:3]),
        prompts=tuple(each[:12] for each in ids[:4]),
    )
    out.mkdir(exist_ok=True)
    given = {"max_new_tokens": 6, "stop_token_ids": (2,), "batch_size": 2, "threads": 1} | more
    return Request(method=method, model=str(model), out=str(out), material=material, **given)
