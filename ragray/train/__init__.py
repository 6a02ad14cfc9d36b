"""LoRA training: examples, packing, losses, schedules, loop, checkpoints, monitor. No Ray."""
