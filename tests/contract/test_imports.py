"""The import rule, read from the source: imports point up, and light modules stay light."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from ragray.distributed.index import INDEX_CODE

ROOT = Path(__file__).parents[2] / "ragray"
ORDER = [
    "errors", "compiled", "schema", "config_words", "config_data", "config_cache", "config_engine",
    "config_evaluate", "config_feedback", "config_limits", "config_quantize", "config_replicas", "config_speed",
    "config_traces", "config_train", "config", "config_loading", "manifest", "locks", "artifact", "ancestry",
    "dataprep", "retrieval", "prompt", "evaluation", "train", "engine", "distributed", "serve", "terminal",
    "config_reference", "cli_inspect", "cli_against", "cli_live", "cli_tune", "cli_run", "cli_engine", "cli_keys",
    "cli",
]  # fmt: skip
MAY_IMPORT_RAY = {"distributed", "serve", "cli"}
HEAVY = {"ray", "torch", "transformers", "tensorrt_llm", "deepspeed", "peft", "openvino", "openvino_genai", "nncf",
         "bitsandbytes", "matplotlib", "sklearn"}  # fmt: skip
FILES = sorted(ROOT.rglob("*.py"))


def room_of(path: Path) -> str:
    first = path.relative_to(ROOT).parts[0]
    return first.removesuffix(".py")


def imported(tree: ast.AST) -> list[tuple[str, int]]:
    names = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [(alias.name, node.lineno) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"relative import in line {node.lineno}"
            names.append((node.module or "", node.lineno))
            if node.module == "ragray":
                names += [(f"ragray.{alias.name}", node.lineno) for alias in node.names]
    return names


def type_checking_lines(tree: ast.AST) -> set[int]:
    """Lines under `if TYPE_CHECKING:`, which are never executed."""
    lines: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            lines.update(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    return lines


def violations(path: Path, source: str) -> list[str]:
    tree = ast.parse(source)
    room, skipped = room_of(path), type_checking_lines(tree)
    found = []
    for name, line in imported(tree):
        parts = name.split(".")
        if parts[0] == "ray" and room not in MAY_IMPORT_RAY:
            found.append(f"{path.name}:{line} imports ray outside {sorted(MAY_IMPORT_RAY)}")
        if parts[0] != "ragray" or len(parts) == 1 or line in skipped:
            continue
        if parts[1] in ORDER and ORDER.index(parts[1]) > ORDER.index(room):
            found.append(f"{path.name}:{line} imports {name}, which lies below {room}")
    return found


@pytest.mark.parametrize("path", [f for f in FILES if f.name != "__init__.py"], ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_up(path: Path) -> None:
    assert room_of(path) in ORDER, f"{path.name}: name its place in ORDER"
    assert violations(path, path.read_text(encoding="utf-8")) == []


def test_the_rule_catches_what_it_forbids() -> None:
    path = ROOT / "dataprep" / "read.py"
    assert len(violations(path, "import ray\nfrom ragray.serve import app\n")) == 2
    assert violations(path, "from ragray.errors import DataError\n") == []


@pytest.mark.parametrize("module", ["ragray.cli", "ragray.distributed.pipeline", "ragray.retrieval.index"])
def test_light_modules_import_nothing_heavy(module: str) -> None:
    code = f"import sys, {module}; print(' '.join(sorted(m.split('.')[0] for m in sys.modules)))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert HEAVY.isdisjoint(loaded), sorted(HEAVY.intersection(loaded))


def test_an_index_is_made_again_when_code_that_makes_its_terms_changes() -> None:
    trees = [ast.parse((ROOT / "retrieval" / f"{name}.py").read_text("utf-8")) for name in ("analyzer", "word_rules")]
    needed = {name for tree in trees for name, _ in imported(tree) if name.startswith("ragray.")}
    checked_apart = {"ragray.config", "ragray.errors"}  # settings are part of the key
    assert needed - checked_apart <= {f"ragray.{name}" for name in INDEX_CODE}
