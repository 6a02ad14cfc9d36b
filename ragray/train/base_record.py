"""What an adapter was trained on: the base model, its chat template and our prompt, each by digest.

In: a base model's folder. Out: base_model.json beside the adapter, and the base model that it names.
"""

from __future__ import annotations

import json
from pathlib import Path

from ragray.artifact import folder_digest
from ragray.errors import ArtifactError
from ragray.train.loading import load_tokenizer, model_folder
from ragray.train.template import TEMPLATE, template_digests

BASE_MODEL = "base_model.json"


def write_base_record(path: Path, base_model: str, folder: Path) -> None:
    """Write base_model.json.

    Args:
        path: the file.
        base_model: `train.base_model` as the user wrote it.
        folder: where that is.
    """
    record = {
        "path": base_model, "digest": folder_digest(folder), "template": template_digests(load_tokenizer(folder)),
    }  # fmt: skip
    path.write_text(json.dumps(record, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def find_base(base_record: Path) -> Path:
    """The folder of the base model that an adapter names.

    Raises:
        ArtifactError: its content is not what the adapter was trained on.
    """
    record = json.loads(base_record.read_text(encoding="utf-8"))
    folder = model_folder(record["path"])
    if folder_digest(folder) != record["digest"]:
        raise ArtifactError(
            f"{record['path']}: not the base model that this adapter was trained on",
            "put the model back as it was, or run `ragray train` again",
        )
    return folder


def keep_template(base_record: Path, model: Path) -> None:
    """Take the template that training used over into the merged model's folder; records before it had none."""
    record = json.loads(base_record.read_text(encoding="utf-8"))
    if "template" in record:
        text = json.dumps(record["template"], indent=2, sort_keys=True)
        (model / TEMPLATE).write_text(text + "\n", encoding="utf-8")
