"""A training run: assembles data, model, objective, optimizer and checkpoints, and loops."""

import contextlib
import importlib.metadata
import json
import pathlib
import signal
import sys
import time
from collections.abc import Callable, Sequence

import jax
import numpy as np

from t5sft import errors
from t5sft.convert import describe
from t5sft.data import batches as batches_lib
from t5sft.data import converters, mixture, prepare, vocab
from t5sft.data import stream as stream_lib
from t5sft.objectives import sft
from t5sft.parallel import mesh as mesh_lib
from t5sft.parallel import rules as rules_lib
from t5sft.train import checkpoint, loop, metrics, optim, owner, start, state
from t5sft.train import hooks as hooks_lib
from t5sft.train import step as step_lib

SPLITS = ("train", "validation")
BEST = "validation/loss"  # the metric that decides which step is best


def train(
    *,
    model,
    data: prepare.Data,
    optimizer: optim.Optimizer,
    model_dir: str,
    steps: int,
    batch_size: int,
    init_from: str | None = None,
    objective: Callable = sft.sft,
    microbatches: int = 1,
    pack: bool = True,
    mixing: mixture.Mixing | None = None,
    seed: int = 0,
    mesh=None,
    rules: Sequence = rules_lib.DEFAULT_RULES,
    log_every: int = 50,
    eval_every: int = 0,
    save_every: int = 0,
    keep_last: int = 2,
    config: str = "",
) -> dict:
    """Trains up to step `steps`, from the last checkpoint of `model_dir` if any; tells the result.

    Args:
      batch_size: B, rows of a global batch; microbatches: parts that it is worked through in.
      init_from: where the parameters of step 0 come from (`start.find`); None: random.
      pack: False gives every example its own row; mixing: sizes of tasks -> rates; None: SeqIO's.
      eval_every: steps between evaluations on "validation", also the last; 0: only the last.
      save_every: steps between checkpoints; the last step is always saved.
      mesh: None is all devices as data; config: the gin text, kept with every checkpoint.
    """
    mesh = mesh if mesh is not None else mesh_lib.make_mesh()
    step_lib.check_batch(batch_size, microbatches, mesh, rules)
    vocabulary = _vocabulary(model, data, steps)
    directory = pathlib.Path(model_dir).expanduser()
    with contextlib.ExitStack() as stack:
        stack.enter_context(owner.own(directory))
        checkpoints = checkpoint.Checkpointer(directory, keep_last=keep_last, best_metric=BEST)
        stack.callback(checkpoints.close)
        origin = _find_start(init_from, model, vocabulary, checkpoints, directory)
        # A child process reads and tokenises while this one compiles.
        preparation = prepare.Preparation(data, model.layout, SPLITS[data.streaming :])
        split_up = {"microbatches": microbatches, "mesh": mesh, "rules": rules}
        program = _compile(model, data, objective, optimizer, batch_size, seed, **split_up)
        splits = preparation.result()
        options = {"batch_size": batch_size, "seed": seed, "pack": pack, "mixing": mixing}
        training, validation = _batches(splits, data, model, vocabulary, **options)
        stack.callback(training.close)
        now, position = _begin(model, optimizer, program, checkpoints, origin, seed, training)
        start = int(now.step)
        (directory / "config.gin").write_text(config)
        hooks = hooks_lib.Hooks(
            checkpoints=checkpoints,
            program=program,
            validation=validation,
            writer=stack.enter_context(metrics.MetricWriter(directory, resume_at=start)),
            progress=stack.enter_context(metrics.Progress(steps, start=start, every=log_every)),
            identity=training.identity(),
            facts=_facts(config, data, vocabulary, model),
        )
        begun = time.perf_counter()
        stream = batches_lib.stream(training, position, program.shardings)
        stack.callback(stream.close)
        asked = stack.enter_context(_signals())
        span = {"start": start, "total_steps": steps}
        actions = hooks.actions(eval_every, save_every)
        now = loop.run(program.update, now, stream, **span, hooks=actions, stop=asked)
        hooks.finish(now)
        return _summary(hooks, now, time.perf_counter() - begun, splits, directory)


def _vocabulary(model, data, steps) -> vocab.Vocabulary:
    """Opens the vocabulary and checks that the model has an embedding for each of its pieces."""
    if steps < 1:
        raise errors.ConfigError(f"steps is {steps}; train; give at least 1")
    vocabulary = vocab.load(data.vocabulary)
    if model.vocab_size < vocabulary.size:
        raise errors.ConfigError(
            f"the model has {model.vocab_size} embeddings, the vocabulary {vocabulary.size} "
            f"pieces; vocab_size; use at least {vocabulary.size}"
        )
    return vocabulary


def _find_start(init_from, model, vocabulary, checkpoints, directory) -> start.Start | None:
    """Finds the parameters of step 0 and checks them, before anything is compiled."""
    if init_from is None or checkpoints.latest_step() is not None:
        return None
    found = start.find(init_from, model, vocabulary)
    start.keep(init_from, directory)
    for line in [f"parameters from {init_from}", *found.notes]:
        _say(line)
    return found


def _compile(model, data, objective, optimizer, batch_size, seed, **split_up):
    """Compiles the step for batches of these lengths; no data is needed for it."""
    shapes = converters.shapes(
        model.layout,
        batch_size,
        encoder_length=data.encoder_length,
        decoder_length=data.decoder_length,
    )
    program = step_lib.build(
        model,
        objective,
        optimizer,
        batch_shapes=shapes,
        seed=seed,
        **split_up,
    )
    mesh = _describe(split_up["mesh"])
    _say(f"model: {state.num_params(program.like.params):,} parameters on {mesh}")
    return program


def _batches(splits, data, model, vocabulary, **options) -> list[batches_lib.Batches]:
    """Opens the prepared splits, and says what is in them; "train" may be streamed."""
    for name, split in zip(SPLITS[data.streaming :], splits, strict=True):
        _say(prepare.describe(name, split.card))
        _refuse_labels(name, split)
    options |= {"layout": model.layout, "start_id": vocabulary.pad_id}
    lengths = {"encoder_length": data.encoder_length, "decoder_length": data.decoder_length}
    if not data.streaming:
        return [batches_lib.Batches(split, **lengths, **options) for split in splits]
    _say("train: streamed; to resume, the pipeline is read again from its start")
    held_out = batches_lib.Batches(splits[0], **lengths, **options | {"mixing": None})
    return [stream_lib.Streamed(data, split=SPLITS[0], **options), held_out]


def _refuse_labels(name: str, split):
    """Refuses preferences: no objective here reads labels, so rejected answers would be learnt."""
    labelled = [task for task, examples in split.tasks.items() if examples.labels is not None]
    if labelled:
        raise errors.ConfigError(
            f"task {labelled[0]!r} holds answers with labels, {name}: the rejected ones would be "
            "learnt, too; Data.candidates; set it to 'best' to learn the best answer of each "
            "(--gin.CANDIDATES='\"best\"')"
        )


def _summary(hooks, now, seconds: float, splits, directory) -> dict:
    """Says what the run did, and returns it for --json."""
    counts, step = hooks.counts, int(now.step)
    values: dict = next(iter(hooks.validated.values()), {})
    padding = 1 - counts["tokens"] / max(counts["places"], 1)
    rate = counts["tokens"] / max(seconds, 1e-9)
    if not counts["places"]:
        _say(f"already at step {step}: nothing to train; {directory}")
    else:
        _say(
            f"step {step} saved: validation loss {values['loss']:.4f}, {rate:,.0f} tokens/s, "
            f"{padding:.1%} padding; {directory}"
        )
    cards = [{k: v for k, v in split.card.items() if k != "tasks"} for split in splits]
    return {
        "step": step,
        "validation": values,
        "seconds": seconds,
        "tokens_per_second": rate,
        "padding": padding,
        **{f"trained_{name}": value for name, value in counts.items()},
        "data": dict(zip(SPLITS[-len(cards) :], cards, strict=True)),
        "model_dir": str(directory),
    }


def _begin(model, optimizer, program, checkpoints, origin, seed, training):
    """Returns the state and data position to go on from: checkpoint, `origin`, or random."""
    like = program.like
    if checkpoints.latest_step() is not None:
        restored = checkpoints.restore(like_params=like.params, like_opt_state=like.opt_state)
        saved, identity = dict(restored.position), training.identity()
        position = batches_lib.Position(saved.pop("block"), saved.pop("row"))
        if saved != identity:
            changed = [name for name in identity if saved.get(name) != identity[name]]
            raise errors.ConfigError(
                f"the data of this run changed ({', '.join(changed)}): step {restored.step} was "
                f"trained with {[saved.get(n) for n in changed]}, now "
                f"{[identity[n] for n in changed]}; resume; use another model_dir"
            )
        _say(f"resuming at step {restored.step}")
        step = jax.device_put(np.int32(restored.step), like.step.sharding)
        return state.State(step, restored.params, restored.opt_state), position
    params = origin.read(like.params) if origin else None
    return state.create(model, optimizer, like, seed, params), batches_lib.Position()


def _facts(config: str, data: prepare.Data, vocabulary, model) -> dict:
    """Returns what a checkpoint must say of itself."""
    packages = ("jax", "flax", "optax", "orbax-checkpoint", "numpy")
    return {
        "config": config,
        "vocabulary": data.vocabulary,
        "vocabulary_sha256": vocabulary.fingerprint(),
        "model": describe.to_json(model),
        "template": data.template,
        "logical_axes": json.loads(json.dumps(model.abstract()[1])),
        "versions": {name: importlib.metadata.version(name) for name in packages},
    }


@contextlib.contextmanager
def _signals():
    """Yields a function that says whether SIGTERM came; the step in progress is then the last."""
    received = []
    before = None
    with contextlib.suppress(ValueError):  # not the main thread: nobody sends it here
        before = signal.signal(signal.SIGTERM, lambda *_: received.append(1))
    try:
        yield lambda: bool(received)
    finally:
        if before is not None:
            signal.signal(signal.SIGTERM, before)


def _describe(mesh) -> str:
    axes = " x ".join(f"{name} {size}" for name, size in mesh.shape.items() if size > 1)
    device = mesh.devices.flat[0]
    return f"{mesh.size} {device.platform} device{'s' * (mesh.size > 1)}{axes and f' ({axes})'}"


def _say(line: str):
    if jax.process_index() == 0:
        print(line, file=sys.stderr, flush=True)
