"""LoRARequest, which refuses a folder that does not exist."""

from dataclasses import dataclass
from pathlib import Path


@dataclass
class LoRARequest:
    lora_name: str
    lora_int_id: int
    lora_path: str = ""

    def __post_init__(self):
        if not Path(self.lora_path).exists():
            raise ValueError(f"lora_path ({self.lora_path}) does not exist.")
