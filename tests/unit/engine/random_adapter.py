"""LoRA adapters with random weights, large enough that answers differ, as `train` artifacts' folders."""

import json
from pathlib import Path


def make_trained(
    folder: Path, base: Path, seed: int, rank: int = 4, method: str = "lora", modules=("q_proj", "v_proj")
):
    """A train artifact's folder: adapter/ and base_model.json."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    from ragray.train.base_record import write_base_record

    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    settings = LoraConfig(
        r=rank, lora_alpha=2 * rank, target_modules=list(modules), use_dora=method == "dora", task_type="CAUSAL_LM",
        use_rslora=method == "rslora",
    )  # fmt: skip
    adapted = get_peft_model(model, settings)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.5)
    adapted.save_pretrained(folder / "adapter")
    write_base_record(folder / "base_model.json", str(base), base)
    return folder


def make_merged(trained: Path, out: Path) -> Path:
    """The merged model of a train artifact's folder."""
    from ragray.engine.merge import merge_adapter

    out.mkdir(parents=True, exist_ok=True)
    merge_adapter(trained / "adapter", trained / "base_model.json", out)
    return out


def change_record(trained: Path, **values: object) -> None:
    path = trained / "base_model.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))
