"""The verbs of the command line: what each says of itself, the function it calls, its flags.

Plain text, so that --help and a mistyped flag are answered without importing anything heavy.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

Flags = dict[str, tuple[Callable[[str], Any], str]]  # name -> (type, help); bool takes no value


class Verb(NamedTuple):
    """One verb.

    Args:
      summary: one line of help.
      root: dotted name of the function it calls; gin binds its parameters.
      flags: parameters of that function which the command line sets.
      positional: flags given without their name; a verb that has some takes files as they are, and
        needs no run: none of MACRO_FLAGS.
      bare: of MACRO_FLAGS, what the function takes itself where there is no configuration.
    """

    summary: str
    root: str
    flags: Flags
    positional: tuple[str, ...] = ()
    bare: tuple[str, ...] = ()


MACRO_FLAGS: Flags = {  # flag -> (type, help); each sets the macro of its name in capitals
    "model_dir": (str, "directory of the run: checkpoints, logs, configuration"),
    "data": (str, "where the task's data is"),
    "init_from": (str, "checkpoint, Hugging Face directory or T5X checkpoint to start from"),
    "steps": (int, "number of train steps"),
    "batch_size": (int, "rows of a global batch"),
}
PROCESS_FLAGS: Flags = {  # of the verbs of MANY: `parallel.processes`
    "coordinator": (str, "HOST:PORT of process 0; Slurm and TPUs tell it by themselves"),
    "num_processes": (int, "how many processes take part"),
    "process_id": (int, "which of them this is, from 0"),
    "join_seconds": (float, "how long to wait until all processes are there; 300"),
    "peer_seconds": (float, "a process not heard of for so long is lost; 60"),
    "stall_seconds": (float, "a process so long behind the others is lost; 1800"),
}
MANY = ("train", "evaluate", "generate")  # verbs that several processes can work on together
_ASKING: Flags = {
    "system": (str, "system prompt"),
    "template": (str, "a template's name or file, in place of the model's own"),
    "vocabulary": (str, "tokenizer, where none lies beside the weights"),
    "dtype": (str, "of the computation: float32 or bfloat16"),
}
_DECODING: Flags = {
    **_ASKING,
    "max_new_tokens": (int, "an answer is cut here"),
    "min_new_tokens": (int, "no end token before so many"),
    "temperature": (float, "0 takes the most likely token, more draws"),
    "top_k": (int, "draw among the k most likely tokens"),
    "top_p": (float, "draw among the most likely tokens of this probability together"),
    "min_p": (float, "draw among tokens so likely, the likeliest being 1"),
    "repetition_penalty": (float, "over 1 makes tokens that were there less likely"),
    "stop": (str, "text that ends an answer; may be repeated"),
    "seed": (int, "of what is drawn"),
    "cache_dtype": (str, "of the keys and values kept: float32, bfloat16 or int8"),
}
VERBS: dict[str, Verb] = {
    "train": Verb("train a model", "t5sft.train.run.train", {}),
    "evaluate": Verb(
        "score a checkpoint on a task, or recorded answers without a model",
        "t5sft.evaluate.run.evaluate",
        {
            "task": (
                str,
                "SeqIO task or mixture, or ifeval, gsm8k, bbh, bbh_NAME, mmlu, squad, ...",
            ),
            "split": (str, "its split"),
            "steps": (str, "checkpoints: 200,400 or all; default the newest"),
            "watch": (bool, "evaluate each checkpoint as training writes it, to the last step"),
            "results_dir": (str, "where results go; default the run, of bare weights evaluations/"),
            "wait_seconds": (float, "--watch ends when no checkpoint came for so long"),
            "num_examples": (int, "at most so many questions of each task"),
            "questions": (str, "a benchmark's file, or the folder in place of $T5SFT_DATA"),
            "style": (str, "how a benchmark is asked: chain_of_thought, direct, few, zero, ..."),
            "shots": (int, "worked examples before each question"),
            "samples": (int, "answers to each question of humaneval, for pass@k"),
            "temperature": (float, "of these; 0 is greedy"),
            "allow_code_execution": (bool, "humaneval: run what was written, in a sandbox"),
            "judge": (str, "mt_bench, pairwise: http://HOST/v1, or a file of judgements"),
            "judge_model": (str, "the judge's name at that address"),
            "baseline": (str, "answers to compare with, JSON Lines"),
            "answer_tokens": (int, "at most so many new tokens of a benchmark's answer"),
            "template_split": (str, "where the best template is chosen, for ranks by template"),
            "predictions": (str, "recorded answers, JSON Lines: response, and prompt or index"),
            "extraction": (str, "rule that finds the answer in a response"),
            "output": (str, "file for each question, its answer and verdict, JSON Lines"),
            **_ASKING,
        },
        bare=("model_dir", "batch_size"),
    ),
    "generate": Verb(
        "answer prompts with a checkpoint, or with any Hugging Face directory",
        "t5sft.evaluate.generating.generate",
        {
            "prompt": (str, "one prompt"),
            "inputs": (str, "file of prompts, JSON Lines"),
            "prompt_field": (str, "field of a row that holds its prompt, where it is another"),
            "output": (str, "file for the answers, JSON Lines; a killed run goes on in it"),
            "batch_size": (int, "rows decoded together"),
            "num_samples": (int, "answers to each prompt"),
            "num_beams": (int, "beam search with so many beams"),
            "length_penalty": (float, "alpha of beam search; 0.6, as transformers 1.0"),
            "beam_style": (str, "beams score and end as those of t5x (default) or transformers"),
            **_DECODING,
        },
        bare=("model_dir",),
    ),
    "chat": Verb(
        "talk with a checkpoint, or with any Hugging Face directory, on the terminal",
        "t5sft.evaluate.chat.chat",
        {
            "once": (str, "answer this message and end; -: of standard input"),
            "context_length": (int, "of prompt and answer; oldest turns beyond it are forgotten"),
            **_DECODING,
        },
        bare=("model_dir",),
    ),
    "plan": Verb(
        "tell what a run on a TPU topology will need and how fast it will be; needs no TPU",
        "t5sft.plan.run.plan",
        {
            "topology": (str, "as v5e-16, v5p-128 (64 chips), 2xv5e-256 (two slices), cpu-8"),
            "search": (bool, "also try other meshes, microbatches and remat policies"),
            "max_compiles": (int, "of --search besides the recipe's own; 4"),
            "shardings": (bool, "only show how every parameter lies on the mesh; compiles nothing"),
            "hlo": (str, "keep the text of the compiled program in this file, compressed"),
        },
    ),
    "inspect": Verb(
        "show examples as the model sees them, with the tokens that are learnt",
        "t5sft.data.inspect.inspect",
        {
            "task": (str, "task or mixture"),
            "split": (str, "its split"),
            "num": (int, "number of rows"),
            "step": (int, "show the batch of this train step; the first is 1"),
            "html": (str, "write a page to this file"),
        },
    ),
    "prepare": Verb(
        "tokenise a task once, for training to read, and tell what it holds",
        "t5sft.data.prepare.prepare",
        {
            "task": (str, "task or mixture"),
            "splits": (lambda text: tuple(text.split(",")), "its splits, as train,validation"),
            "sequence_length": (
                str,
                "measure packing in such rows, 2048 or 1024,512 (encoder,decoder); may be repeated",
            ),
            "workers": (int, "processes that tokenise"),
        },
    ),
    "score": Verb(
        "tell how likely answers are, at any checkpoint or Hugging Face directory",
        "t5sft.evaluate.score.score",
        {
            "file": (str, "JSON Lines with inputs and targets, or input_ids and target_ids"),
            "model_dir": (str, "checkpoint of ours or Hugging Face directory"),
            "output": (str, "file for the scores, JSON Lines"),
            "vocabulary": (str, "tokenizer, where none lies beside the weights"),
            "batch_size": (int, "rows computed together"),
            "dtype": (str, "of the computation: float32 or bfloat16"),
        },
        positional=("file",),
    ),
    "pod": Verb(
        "write what starts a run on TPU VMs, on Kubernetes or with Slurm",
        "t5sft.pods.render.render",
        {
            "description_file": (str, "TOML, as scripts/pods/tpu_vm.toml"),
            "output": (str, "file for it; without, it is printed"),
        },
        positional=("description_file",),
    ),
    "convert": Verb(
        "turn Hugging Face or T5X weights into a checkpoint, or a checkpoint into Hugging Face",
        "t5sft.train.exchange.convert",
        {
            "source": (str, "Hugging Face directory, T5X checkpoint, or checkpoint of ours"),
            "target": (str, "directory to be made"),
            "dtype": (str, "of the numbers written: float32, bfloat16 or float16"),
            "family": (str, "model_type to write, such as llama"),
            "tokenizer": (
                str,
                "directory or file of the tokenizer, where none lies beside the weights",
            ),
            "special_tokens": (str, "tokens to add, separated by commas"),
            "max_shard_bytes": (int, "size of a safetensors file"),
        },
        positional=("source", "target"),
    ),
    "checkpoint": Verb(
        "list, verify or prune the checkpoints of a model directory",
        "t5sft.train.inventory.checkpoint",
        {
            "action": (str, "list, verify or prune"),
            "directory": (str, "model directory"),
            "step": (int, "only this step"),
            "keep_last": (int, "newest steps that prune leaves"),
            "keep_best": (int, "best steps that prune leaves"),
        },
        positional=("action", "directory"),
    ),
    "goodput": Verb(
        "tell where the time of a run went, over its restarts",
        "t5sft.train.goodput.goodput",
        {"directory": (str, "model directory")},
        positional=("directory",),
    ),
}
