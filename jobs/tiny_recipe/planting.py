"""The model: a small Llama whose first two layers copy before any training."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from tiny_recipe.tokenizer import VOCABULARY

if TYPE_CHECKING:
    import torch
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

HEAD = 128  # coordinates of an attention head
TOKEN_CODE = slice(1, 129)  # residual coordinates: who the token is
COPIES = (28, 20, 12, 20)  # coordinates that tell the tokens one, two, three places back, and the last few
FREE = slice(129 + sum(COPIES), 256)  # what training may write before the match is made; 0 holds a constant
MATCH = (24, 12, 8, 10)  # score for agreement in this token, the one before, the one before that, the last few
SPREAD = 0.06  # standard deviation of the embedding


def build_model(tokenizer: PreTrainedTokenizerFast, seed: int) -> LlamaForCausalLM:
    """A fresh model of the bundled size, with copying planted in its first two layers."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=256,
        intermediate_size=640,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        head_dim=HEAD,
        max_position_embeddings=1024,
        rope_parameters={"rope_type": "default", "rope_theta": 1e9},
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = LlamaForCausalLM(config)
    plant_induction(model, seed)
    return model


def plant_induction(model: LlamaForCausalLM, seed: int) -> None:
    """Start from weights that already copy: "what followed these tokens last time?".

    Layer 0 writes who stood one, two and three places back, and a mean of the last dozen or so, into coordinates
    of their own. Layer 1's first head looks for the place before which all this agrees with the end of the text
    so far, in the coordinates that rotary embedding hardly turns, and brings that place's token. The mean decides
    where the same three words occur twice. From random weights this took most of what two CPU cores can do.
    Source: Olsson et al. 2022, "Mechanistic view"; Su et al. 2021, "RoFormer", section 3.2.2.
    """
    import torch

    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for layer in model.model.layers:  # let the planted part speak first
            layer.self_attn.o_proj.weight.mul_(0.1)
            layer.mlp.down_proj.weight.mul_(0.1)
        model.model.layers[0].mlp.down_proj.weight[: FREE.start] = 0
        table = model.model.embed_tokens.weight
        table.normal_(0, 1, generator=generator)
        for first, last in pairwise(sorted({0, *COPIES, TOKEN_CODE.stop - 1})):
            block = table[:, 1 + first : 1 + last]  # every part of a code has the same length
            block.mul_(math.sqrt(last - first) / block.norm(dim=1, keepdim=True))
        table[:, 0] = 4
        table[:, TOKEN_CODE.stop :] = 0
        table.mul_(SPREAD)
        plant_look_back(model)
        plant_match(model, generator)


def embedding_scale() -> float:
    """Root mean square of an embedding's coordinates, in units of `SPREAD`."""
    return math.sqrt((16 + TOKEN_CODE.stop - 1) / FREE.stop)


def rotary_turns(config: Any) -> torch.Tensor:
    """Radians per token of each rotary pair, fastest first."""
    import torch

    half = HEAD // 2
    turns: torch.Tensor = config.rope_parameters["rope_theta"] ** (-torch.arange(half) / half)
    return turns


def plant_look_back(model: LlamaForCausalLM) -> None:
    """Layer 0: heads 0 to 2 look one to three tokens back, head 3 at the last dozen or so.

    Coordinate 0 of every embedding is the same constant, from which query and key make a fixed vector each, so
    that under rotary embedding the score depends on the distance alone: a sum of cosines with its peak where wanted.
    """
    import torch

    attention, size = model.model.layers[0].self_attn, HEAD
    turns = rotary_turns(model.config)
    near = torch.zeros(size // 2)
    near[0:16:2] = 200 / 8  # fast turns: a sharp peak
    wide = turns * torch.exp(-((turns * 6.5) ** 2) / 2)  # slow turns: a peak some 6.5 tokens wide
    wide *= 9 / wide.sum()
    constant = 4 / embedding_scale()
    attention.o_proj.weight.zero_()
    start = TOKEN_CODE.stop
    for head, (back, scores, count) in enumerate(zip((1, 2, 3, 9), (near, near, near, wide), COPIES, strict=True)):
        rows, height = slice(head * size, (head + 1) * size), (scores * math.sqrt(size)).sqrt() / constant
        turned = (height * torch.cos(back * turns), height * torch.sin(back * turns))
        for projection, vector in (
            (attention.q_proj, torch.cat([height, torch.zeros(size // 2)])),
            (attention.k_proj, torch.cat(turned)),
        ):
            projection.weight[rows] = 0
            projection.weight[rows, 0] = vector
        attention.v_proj.weight[rows] = 0
        strength = (4 if back == 9 else 2) * SPREAD * embedding_scale()  # a mean is weaker than its parts
        for place in range(count):
            attention.v_proj.weight[rows.start + place, TOKEN_CODE.start + place] = 1
            attention.o_proj.weight[start + place, rows.start + place] = strength
        start += count


def plant_match(model: LlamaForCausalLM, generator: torch.Generator) -> None:
    """Layer 1, head 0: compare what the text ends with to what each place is preceded by; bring its token."""
    import torch

    attention, size = model.model.layers[1].self_attn, HEAD
    slow = torch.nonzero(rotary_turns(model.config) < 1 / 1200).flatten()
    slow = torch.cat([slow, slow + size // 2])
    slow = slow[torch.randperm(len(slow), generator=generator)]
    scale = math.sqrt(embedding_scale() ** 2 + 4 * sum(COPIES) / FREE.stop)  # after layer 0, in units of SPREAD
    starts = [TOKEN_CODE.start, *(TOKEN_CODE.stop + sum(COPIES[:n]) for n in range(4))]
    for projection in (attention.q_proj, attention.k_proj, attention.v_proj):
        projection.weight[:size] = 0
    attention.o_proj.weight[:, :size] = 0
    used = 0
    for piece, (count, score) in enumerate(zip(COPIES, MATCH, strict=True)):
        ended = starts[4] if piece == 3 else starts[piece]  # the mean is compared with the mean
        loud = 1 if piece == 0 else 1.8 if piece == 3 else 2  # of the query's coordinates; the key's are 2 or 1.8
        height = scale * math.sqrt(score * math.sqrt(size) / (loud * (1.8 if piece == 3 else 2) * count))
        for place, row in enumerate(slow[used : used + count].tolist()):
            attention.q_proj.weight[row, ended + place] = height
            attention.k_proj.weight[row, starts[piece + 1] + place] = height
        used += count
    for place in range(size):
        attention.v_proj.weight[place, TOKEN_CODE.start + place] = 1
        attention.o_proj.weight[TOKEN_CODE.start + place, place] = 4 * SPREAD * scale


def trainable(model: LlamaForCausalLM) -> dict[str, torch.Tensor]:
    """For each parameter 1 where training may change it, 0 where copying was planted."""
    import torch

    masks = {name: torch.ones_like(parameter) for name, parameter in model.named_parameters()}
    first, second, size = "model.layers.0.", "model.layers.1.", HEAD
    for name, mask in masks.items():
        if name.startswith(f"{first}self_attn") or name in (
            f"{first}input_layernorm.weight",
            f"{second}input_layernorm.weight",
        ):
            mask.zero_()
    masks["model.embed_tokens.weight"][:, : FREE.start] = 0
    masks[f"{first}mlp.down_proj.weight"][: FREE.start] = 0
    for part in "qkv":
        masks[f"{second}self_attn.{part}_proj.weight"][:size] = 0
    masks[f"{second}self_attn.o_proj.weight"][:, :size] = 0
    return masks
