"""Scoring recorded answers: no model, no JAX, no SeqIO, no network.

`matching` joins answers to questions, `benchmarks` knows the tasks by name, the other modules are
the metrics; `predictions` is what `t5sft evaluate --predictions` calls.
"""
