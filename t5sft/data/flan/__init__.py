"""FLAN's machinery over rows and templates as data: no TensorFlow, no state, no drift.

patterns.py     a pattern, its fields, which pattern an example gets
options.py      options blocks in several formats, the answer rewritten to its name
shots.py        exemplars: drawn, never the query, pruned by cumulative length
render.py       rows -> (inputs, targets): the three above put together
splits.py       held-out clusters and tasks, with FLAN's exclusion rules
mixing.py       rates from sizes: capped, tempered, explicit; FLAN v2's weights
pattern_files.py  FLAN's Python template files, read without running them
promptsource.py   promptsource's YAML files; sandbox.py renders their Jinja within bounds

Wei et al. 2021 (arXiv:2109.01652), Longpre et al. 2023 (arXiv:2301.13688).
"""
