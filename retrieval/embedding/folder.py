"""A sentence-transformers folder: what is in it, whether it is safe to load, and the digest of its weights."""

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from backends.errors import InvalidSettings

FIELD = "embedding_model"
OWN_MODULES = "sentence_transformers."
PICKLED_WEIGHTS = "pytorch_model.bin"
WEIGHTS = "model.safetensors"
TOKENIZER = "tokenizer.json"
PLAIN_STAGES = (("Transformer", "Pooling"), ("Transformer", "Pooling", "Normalize"))


@dataclass(frozen=True)
class Module:
    """One stage of the model: the last part of its class's name, and its folder."""

    kind: str
    path: Path


@dataclass(frozen=True)
class ModelFolder:
    """A folder as sentence-transformers saves it, checked: no code of its own, weights as safetensors."""

    path: Path
    modules: tuple[Module, ...]

    @classmethod
    def read(cls, path: Path) -> "ModelFolder":
        """Check a folder; raises InvalidSettings that says what is missing or not allowed."""
        if not (path / "modules.json").is_file():
            raise InvalidSettings(
                FIELD, f"no modules.json in {path}; needed the path of a folder as sentence-transformers saves it"
            )
        entries = _read_json(path / "modules.json")
        _check_modules(path, entries)
        folder = cls(path, tuple(Module(entry["type"].rpartition(".")[2], path / entry["path"]) for entry in entries))
        if folder._pooling.get("include_prompt") is False and any(folder.prompts):
            raise InvalidSettings(FIELD, f"{path} leaves its prompts out of pooling; needed a model that keeps them in")
        return folder

    @cached_property
    def revision(self) -> str:
        """A digest of weights, tokenizer and configurations, the same wherever the folder lies."""
        digest = hashlib.sha256()
        for file in sorted({file for module in self.modules for file in _files(module.path)}):
            digest.update(f"{file.relative_to(self.path).as_posix()} {file.stat().st_size}\n".encode())
            with file.open("rb") as content:
                digest.update(hashlib.file_digest(content, "sha256").digest())
        return digest.hexdigest()[:16]

    @cached_property
    def config(self) -> dict[str, Any]:
        """The configuration of the Transformers model; empty where there is none."""
        config: dict[str, Any] = _read_json(self.path / "config.json")
        return config

    @cached_property
    def max_tokens(self) -> int:
        """Tokens beyond which a plain model does not read, special tokens included."""
        positions = self.config["max_position_embeddings"]
        model_limit = _read_json(self.path / "tokenizer_config.json").get("model_max_length", positions)
        return int(min(self._transformer.get("max_seq_length") or model_limit, positions))

    @cached_property
    def prompts(self) -> tuple[str, str]:
        """What the model wants to read before a query, and before a passage."""
        config = _read_json(self.path / "config_sentence_transformers.json")
        prompts = config.get("prompts") or {}
        default = prompts.get(config.get("default_prompt_name"), "")
        passage = next((prompts[name] for name in ("document", "passage", "corpus") if name in prompts), default)
        return prompts.get("query", default), passage

    @cached_property
    def pooling(self) -> str | None:
        """How token embeddings become one: "mean", "cls", or None for any other way."""
        config = self._pooling
        modes = {config.get("pooling_mode")} | {
            name.removeprefix("pooling_mode_").removesuffix("_tokens").removesuffix("_token")
            for name, chosen in config.items()
            if name.startswith("pooling_mode_") and chosen
        }
        modes.discard(None)
        return modes.pop() if len(modes) == 1 and modes <= {"mean", "cls"} else None

    @cached_property
    def is_plain_bert(self) -> bool:
        """Whether this is a BERT as in the paper, then mean or first-token pooling, and nothing else."""
        config, transformer = self.config, self._transformer
        return (
            tuple(module.kind for module in self.modules) in PLAIN_STAGES
            and self.modules[0].path == self.path
            and (self.path / WEIGHTS).is_file()
            and (self.path / TOKENIZER).is_file()
            and config.get("model_type") == "bert"
            and config.get("hidden_act") == "gelu"
            and config.get("position_embedding_type", "absolute") == "absolute"
            and not config.get("is_decoder", False)
            and not transformer.get("do_lower_case", False)
            and transformer.get("transformer_task", "feature-extraction") == "feature-extraction"
            and self.pooling is not None
        )

    @property
    def _transformer(self) -> dict[str, Any]:
        config: dict[str, Any] = _read_json(self.path / "sentence_bert_config.json")
        return config

    @property
    def _pooling(self) -> dict[str, Any]:
        paths = [module.path for module in self.modules if module.kind == "Pooling"]
        return _read_json(paths[0] / "config.json") if paths else {}


def _check_modules(path: Path, entries: list[dict[str, Any]]) -> None:
    """Refuse code and pickles: a model is data."""
    for entry in entries:
        if not entry["type"].startswith(OWN_MODULES):
            raise InvalidSettings(
                FIELD,
                f"{path} needs code of its own, {entry['type']!r}, which is never run; needed a model made of "
                "sentence-transformers' modules",
            )
        folder = path / entry["path"]
        if (folder / PICKLED_WEIGHTS).exists() and not any(folder.glob("*.safetensors")):
            raise InvalidSettings(
                FIELD,
                f"{folder} has its weights pickled, in {PICKLED_WEIGHTS}, which can run code; needed {WEIGHTS} "
                "(load the model where you trust it, and save it again)",
            )


def _read_json(path: Path) -> Any:
    """Read a JSON file, a dictionary in all but one; an empty one where the file is not there."""
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise InvalidSettings(FIELD, f"{path} is not JSON ({error}); needed the file as it was saved") from error


def _files(path: Path) -> list[Path]:
    return [file for pattern in ("*.safetensors", "*.json") for file in path.glob(pattern)]
