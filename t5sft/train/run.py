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
from t5sft.data import batches as batches_lib
from t5sft.data import converters, prepare, vocab
from t5sft.objectives import sft
from t5sft.parallel import mesh as mesh_lib
from t5sft.parallel import rules as rules_lib
from t5sft.train import checkpoint, loop, metrics, optim, owner, state
from t5sft.train import step as step_lib


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
    seed: int = 0,
    mesh=None,
    rules: Sequence = rules_lib.DEFAULT_RULES,
    log_every: int = 50,
    eval_every: int = 0,
    save_every: int = 0,
    keep_last: int = 2,
    config: str = "",
) -> dict:
    """Trains for `steps` steps in all, from the last checkpoint of `model_dir` when there is one.

    Args:
      model: a ModelDef (models/t5.py, models/decoder.py).
      data: what is learnt; splits "train" and "validation" are used.
      batch_size: B, rows of a global batch.
      init_from: a checkpoint to take the parameters from at step 0; None: random.
      microbatches: parts a batch is worked through in; the result is the same.
      pack: False gives every example a row of its own.
      mesh: None: all devices on the data axis.
      eval_every: steps between evaluations on "validation", also the last; 0: only the last.
      save_every: steps between checkpoints; the last step is always saved.
      config: the gin configuration, kept with every checkpoint.

    Returns:
      A summary: step, losses, speed, data counts, paths.
    """
    mesh = mesh if mesh is not None else mesh_lib.make_mesh()
    step_lib.check_batch(batch_size, microbatches, mesh, rules)
    if steps < 1:
        raise errors.ConfigError(f"steps is {steps}; train; give at least 1")
    directory = pathlib.Path(model_dir).expanduser()
    vocabulary = vocab.load(data.vocabulary)
    _check_vocabulary(model, vocabulary)
    with contextlib.ExitStack() as stack:
        stack.enter_context(owner.own(directory))
        # The child process reads and tokenises while this one compiles.
        preparation = prepare.Preparation(data, model.layout, ("train", "validation"))
        like = state.abstract(model, optimizer, mesh, rules)
        lengths = {"encoder_length": data.encoder_length, "decoder_length": data.decoder_length}
        shapes = converters.shapes(model.layout, batch_size, **lengths)
        placed = {"like": like, "mesh": mesh, "rules": rules, "batch_shapes": shapes}
        update = step_lib.make_update(
            model, objective, optimizer, microbatches=microbatches, seed=seed, **placed
        )
        checkpoints = checkpoint.Checkpointer(
            directory, keep_last=keep_last, best_metric="validation/loss"
        )
        stack.callback(checkpoints.close)
        _say(f"model: {state.num_params(like.params):,} parameters on {_describe(mesh)}")
        compiled = update.lower(like, shapes).compile()
        splits = preparation.result()
        sources = [
            batches_lib.Batches(
                split,
                layout=model.layout,
                batch_size=batch_size,
                start_id=vocabulary.pad_id,
                seed=seed,
                pack=pack,
                **lengths,
            )
            for split in splits
        ]
        for name, split in zip(("train", "validation"), splits, strict=True):
            _say(prepare.describe(name, split.card))
        identity = {"train": splits[0].digest, "seed": seed, "batch_size": batch_size, "pack": pack}
        now, position = _begin(model, optimizer, like, checkpoints, init_from, seed, identity)
        start = int(now.step)
        if start >= steps:
            _say(f"already at step {start} of {steps}: nothing to train")
        run = _Run(
            directory=directory,
            checkpoints=checkpoints,
            evaluate=step_lib.make_evaluate(model, objective, **placed),
            validation=sources[1],
            shardings=step_lib.batch_shardings(shapes, mesh, rules),
            writer=stack.enter_context(metrics.MetricWriter(directory, resume_at=start)),
            progress=stack.enter_context(metrics.Progress(steps, start=start, every=log_every)),
            identity=identity,
            facts=_facts(config, data, vocabulary, model),
        )
        (directory / "config.gin").write_text(config)
        stream = batches_lib.stream(sources[0], position, run.shardings)
        stop = stack.enter_context(_signals())
        hooks = [run.log, loop.every(eval_every, run.validate), loop.every(save_every, run.save)]
        begun = time.perf_counter()
        now = loop.run(
            compiled, now, stream, start=start, total_steps=steps, hooks=hooks, stop=stop
        )
        jax.block_until_ready(now.params)
        seconds = time.perf_counter() - begun
        run.finish(now)
        return run.summary(now, seconds, splits)


class _Run:
    """What the hooks of one run share."""

    def __init__(self, **parts):
        self.__dict__.update(parts)
        self.counts = {"examples": 0, "tokens": 0, "places": 0}
        self.position = None
        self.validated = {}  # step -> metrics on "validation"

    def log(self, step, now, step_metrics, batch):
        """Counts the batch; writes metrics one step late, so that the devices are never waited for."""
        del now
        self.position = batch.position
        for name, value in batch.counts.items():
            self.counts[name] += value
        values = self.progress.update(step, step_metrics, batch.counts)
        if values is not None:
            self.writer.write(values.pop("step"), "train", values)

    def validate(self, step, now, *_):
        """Measures the loss on every validation example once."""
        total = {}
        for rows in self.validation.once():
            arrays = batches_lib.place(self.validation, rows, self.shardings)
            for name, pair in self.evaluate(now.params, arrays).items():
                total[name] = np.add(total.get(name, (0.0, 0.0)), jax.device_get(pair))
        values = metrics.summarise(total)
        self.validated = {step: values}
        self.writer.write(step, "validation", values)
        self.progress.note(step, "validation", values)

    def save(self, step, now, *_):
        """Starts a checkpoint of this step."""
        self.progress.check_finite()
        chosen = self.validated.get(step, {})
        self.checkpoints.save(
            step,
            params=now.params,
            opt_state=now.opt_state,
            position={**self.position._asdict(), **self.identity},
            run=self.facts,
            metrics={f"validation/{name}": value for name, value in chosen.items()},
        )

    def finish(self, now):
        """Evaluates and saves the last step, and waits until it is on the disk."""
        step = int(now.step)
        values = self.progress.flush()
        if values is not None:
            self.writer.write(values.pop("step"), "train", values)
        if self.position is not None:
            if step not in self.validated:
                self.validate(step, now)
            self.save(step, now)
        self.checkpoints.wait()

    def summary(self, now, seconds: float, splits) -> dict:
        """Returns what the run did, for people and for --json."""
        padding = 1 - self.counts["tokens"] / max(self.counts["places"], 1)
        values = next(iter(self.validated.values()), {})
        rate = self.counts["tokens"] / max(seconds, 1e-9)
        _say(
            f"done: step {int(now.step)}, validation loss {values.get('loss', float('nan')):.4f}, "
            f"{rate:,.0f} tokens/s, padding {padding:.1%}; {self.directory}"
        )
        cards = [{k: v for k, v in split.card.items() if k != "tasks"} for split in splits]
        return {
            "step": int(now.step),
            "validation": values,
            "seconds": seconds,
            "tokens_per_second": rate,
            "padding": padding,
            **{f"trained_{name}": value for name, value in self.counts.items()},
            "data": dict(zip(("train", "validation"), cards, strict=True)),
            "model_dir": str(self.directory),
        }


def _begin(model, optimizer, like, checkpoints, init_from, seed, identity):
    """Returns the state and data position to go on from: checkpoint, init_from, or random."""
    if checkpoints.latest_step() is not None:
        restored = checkpoints.restore(like_params=like.params, like_opt_state=like.opt_state)
        saved = dict(restored.position)
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
    params = None
    if init_from is not None:
        params = checkpoint.restore_params(init_from, like.params)
        _say(f"parameters from {init_from}")
    return state.create(model, optimizer, like, seed, params), batches_lib.Position()


def _check_vocabulary(model, vocabulary):
    if model.vocab_size < vocabulary.size:
        raise errors.ConfigError(
            f"the model has {model.vocab_size} embeddings, the vocabulary {vocabulary.size} "
            f"pieces; vocab_size; use at least {vocabulary.size}"
        )


def _facts(config: str, data: prepare.Data, vocabulary, model) -> dict:
    """Returns what a checkpoint must say of itself."""
    packages = ("jax", "flax", "optax", "orbax-checkpoint", "numpy")
    return {
        "config": config,
        "vocabulary": data.vocabulary,
        "vocabulary_sha256": vocabulary.fingerprint(),
        "template": data.template,
        "logical_axes": json.loads(json.dumps(model.abstract()[1])),
        "versions": {name: importlib.metadata.version(name) for name in packages},
    }


@contextlib.contextmanager
def _signals():
    """Yields a function that says whether SIGTERM came: the step in progress is finished and saved."""
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
