"""A training run: assembles data, model, objective, optimizer and checkpoints, and loops."""

import contextlib
import functools
import time
from collections.abc import Callable, Sequence
from typing import Literal

from t5sft.data import converters, mixture, prepare
from t5sft.models import flops
from t5sft.objectives import sft
from t5sft.parallel import chips
from t5sft.parallel import mesh as mesh_lib
from t5sft.parallel import rules as rules_lib
from t5sft.train import (
    checkpoint,
    events,
    inputs,
    metrics,
    optim,
    owner,
    places,
    resume,
    rounds,
    state,
)
from t5sft.train import guard as guard_lib
from t5sft.train import hooks as hooks_lib
from t5sft.train import step as step_lib
from t5sft.train.metrics import say


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
    compiler_options: dict | None = None,
    log_every: int = 50,
    eval_every: int = 0,
    save_every: int = 0,
    keep_last: int = 2,
    guard: guard_lib.Guard = guard_lib.DEFAULT,
    skip_batches: Sequence[guard_lib.Range] = (),
    on_damage: Literal["error", "fallback"] = "error",
    allow_changes: bool = False,
    config: str = "",
) -> dict:
    """Trains up to step `steps`, from the last checkpoint of `model_dir` if any; tells the result.

    Args:
      batch_size: B, rows of a global batch; microbatches: parts that it is worked through in.
      init_from: where the parameters of step 0 come from (`start.find`); None: random.
      pack: False gives every example its own row; mixing: sizes of tasks -> rates; None: SeqIO's.
      eval_every, save_every: steps between validations and checkpoints; the last has both always.
      guard: of bad batches; on_damage: "fallback" goes on from the step before a damaged one.
      skip_batches: ranges ((first, last), ...) of batches never learnt; goes back before them.
      allow_changes: resume with other data, tokenizer or batch size; config: the gin text, kept.
      mesh: sizes; None is all devices as data; compiler_options: XLA's.
    """
    directory = places.local(model_dir)
    mesh = mesh_lib.resolve(mesh)
    step_lib.check_batch(batch_size, microbatches, mesh, rules)
    vocabulary = inputs.vocabulary(model, data, steps)
    every: dict = {"eval_every": eval_every, "save_every": save_every, "skips": skip_batches}
    resuming: dict = {"on_damage": on_damage, "allow_changes": allow_changes}
    with contextlib.ExitStack() as stack:
        stack.enter_context(owner.own(directory))
        log = stack.enter_context(events.Events(directory))
        keep: dict = {"keep_last": keep_last, "best_metric": checkpoint.BEST}
        checkpoints = checkpoint.Checkpointer(directory, **keep)
        stack.callback(checkpoints.close)
        origin = resume.find_start(init_from, model, vocabulary, checkpoints, directory)
        # A child process reads and tokenises while this one compiles.
        preparation = prepare.Preparation(data, model.layout, inputs.SPLITS[data.streaming :])
        split_up: dict = {"microbatches": microbatches, "mesh": mesh, "rules": rules}
        split_up |= {"guard": guard, "compiler_options": compiler_options}
        program = _compile(log, model, data, objective, optimizer, batch_size, seed, **split_up)
        splits = preparation.result()
        options = {"batch_size": batch_size, "seed": seed, "pack": pack, "mixing": mixing}
        training, validation = inputs.batches(splits, data, model, vocabulary, **options)
        stack.callback(training.close)
        facts = resume.facts(config, data, vocabulary, model)
        whole = (model, optimizer, program, checkpoints, origin, seed, training)
        begin = functools.partial(resume.begin, *whole, facts=facts, guard=guard, **resuming)
        kept = {"checkpoints": checkpoints, "program": program, "validation": validation}
        kept |= {"identity": training.identity(), "facts": facts, "events": log, "guard": guard}
        hooks_of = functools.partial(_hooks, directory, steps, log_every, **kept)
        clock = time.perf_counter()
        done = rounds.run(stack, begin, hooks_of, training, program, log, steps=steps, **every)
        return _summary(*done, time.perf_counter() - clock, splits, directory)


def _hooks(directory, steps, log_every, begun: resume.Begin, stack, asked, **kept):
    """Returns the hooks of a round, which goes on from `begun`."""
    (directory / "config.gin").write_text(kept["facts"]["config"])
    start = int(begun.state.step)
    return hooks_lib.Hooks(
        writer=stack.enter_context(metrics.MetricWriter(directory, resume_at=start)),
        progress=stack.enter_context(
            metrics.Progress(steps, start=start, every=log_every, period=begun.position.period)
        ),
        skips=list(begun.position.skips),
        unlearnt=list(begun.position.unlearnt),
        asked=asked,
        **kept,
    )


def _compile(log, model, data, objective, optimizer, batch_size, seed, **split_up):
    """Compiles the step for batches of these lengths; no data is needed for it."""
    shapes = converters.shapes(
        model.layout,
        batch_size,
        encoder_length=data.encoder_length,
        decoder_length=data.decoder_length,
    )
    with log.span("compile"):
        program = step_lib.build(
            model, objective, optimizer, batch_shapes=shapes, seed=seed, **split_up
        )
    mesh = split_up["mesh"]
    say(f"model: {state.num_params(program.like.params):,} parameters on {_describe(mesh)}")
    peak = chips.peak_flops(mesh.devices.flat)
    return program._replace(peak_seconds=peak and flops.step_flops(model, shapes) / peak)


def _summary(hooks, now, seconds: float, splits, directory) -> dict:
    """Says what the run did, and returns it for --json."""
    counts, step = hooks.counts, int(now.step)
    values: dict = next(iter(hooks.validated.values()), {})
    padding = 1 - counts["tokens"] / max(counts["places"], 1)
    rate = counts["tokens"] / max(seconds, 1e-9)
    if not counts["places"]:
        say(f"already at step {step}: nothing to train; {directory}")
    else:
        loss = f"validation loss {values['loss']:.4f}" if values else "stopped before an evaluation"
        say(f"step {step} saved: {loss}, {rate:,.0f} tokens/s, {padding:.1%} padding; {directory}")
    cards = [{k: v for k, v in split.card.items() if k != "tasks"} for split in splits]
    return {
        "step": step,
        "is_done": hooks.progress.is_done(step),
        "validation": values,
        "seconds": seconds,
        "tokens_per_second": rate,
        "padding": padding,
        **{f"trained_{name}": value for name, value in counts.items()},
        "data": dict(zip(inputs.SPLITS[-len(cards) :], cards, strict=True)),
        "model_dir": str(directory),
    }


def _describe(mesh) -> str:
    axes = " x ".join(f"{name} {size}" for name, size in mesh.shape.items() if size > 1)
    device = mesh.devices.flat[0]
    return f"{mesh.size} {device.platform} device{'s' * (mesh.size > 1)}{axes and f' ({axes})'}"
