"""The verbs generate and chat: what they ask, write, resume and refuse."""

import dataclasses
import json
import os

import pytest
from convert import written
from oracles import checkpoints
from oracles.parrot import BYTES, DATA, DECODER, T5

from t5sft import cli, errors, paths
from t5sft.data import preprocess, records, templates
from t5sft.evaluate import answering, answers_file, generating, likelihoods, opening, progress
from t5sft.generate import decode

ROWS = [
    {"instruction": "copy", "input": "this", "id": 1},
    {"inputs": "say that"},
    {"prompt": "say more"},
    {"messages": [{"role": "user", "content": "say less"}]},
]
WORDS = ("this", "that", "more", "less")


@pytest.fixture
def asked(tmp_path):
    file = tmp_path / "in.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return {"inputs": str(file), "output": str(tmp_path / "out.jsonl")}


def generate(model=T5, **options):
    return generating.generate(model=model, data=DATA, model_dir="copy", **options)["responses"]


def lines(path):
    with open(path) as file:
        return [json.loads(line) for line in file]


def test_a_prompt_is_answered_on_standard_output(fake, capfd):
    for model in (T5, DECODER):
        got = generate(model, prompt="say red")
        assert got == [{"prompt": "say red", "response": "red", "finished": True}]
    assert capfd.readouterr().out == "red\nred\n"


def test_a_file_is_answered_row_by_row_in_its_order(fake, asked):
    want = [row | {"response": w, "finished": True} for row, w in zip(ROWS, WORDS, strict=True)]
    assert generate(**asked) == want
    assert lines(asked["output"]) == [{"index": i, **row} for i, row in enumerate(want)]
    assert fake[0]["seeds"] == [0, 1, 2, 3]


def test_samples_are_lists(fake, asked):
    got = generate(**asked, num_samples=2, temperature=1.0, max_new_tokens=4)
    assert [row["responses"] for row in got] == [[word, word] for word in WORDS]
    assert [row["finished"] for row in got] == [[True, False]] * 4


def test_a_killed_run_goes_on_where_its_output_ends(fake, asked, monkeypatch, capfd):
    want = generate(**asked)
    whole = lines(asked["output"])
    for kept in (1, 3):
        text = "".join(json.dumps(row) + "\n" for row in whole[-kept:])
        with open(asked["output"], "w") as file:  # in any order, the last line half written
            file.write(text + json.dumps(whole[0])[:20])
        assert generate(**asked, batch_size=7) == want
        assert fake[-1]["prompts"] == 4 - kept
        assert fake[-1]["seeds"] == [0, 1, 2, 3][: 4 - kept]
        assert lines(asked["output"]) == whole
    assert "3 of 4 were answered already" in capfd.readouterr().err
    asked_before = len(fake)
    assert generate(**asked) == want and len(fake) == asked_before  # nothing to do


def test_rows_that_have_an_index_of_their_own_are_not_confused(fake, asked):
    """Its own index named another row when a killed run went on."""
    rows = [
        {"prompt": f"say {word}", "index": i} for i, word in zip((2, 0, 1), WORDS, strict=False)
    ]
    with open(asked["inputs"], "w") as file:
        file.write("".join(json.dumps(row) + "\n" for row in rows))
    want = generate(**asked)
    assert [row["response"] for row in want] == ["this", "that", "more"]
    assert [row["index"] for row in want] == [2, 0, 1]
    whole = lines(asked["output"])
    with open(asked["output"], "w") as file:
        file.write(json.dumps(whole[0]) + "\n")
    assert generate(**asked) == want and lines(asked["output"]) == whole
    assert fake[-1]["seeds"] == [1, 2]


def test_rows_beyond_the_positions_of_the_weights_are_refused(fake, asked, capfd):
    """They were answered, by positions that the weights have never seen."""
    short = dataclasses.replace(DECODER, max_position_embeddings=40)
    with pytest.raises(errors.DataError, match="were made for 40 positions"):
        generate(short, prompt="x" * 30, max_new_tokens=16)
    assert generate(short, prompt="x" * 10, max_new_tokens=16)
    ready = opening.find(model_dir="copy", model=short, data=DATA)
    for use in (
        lambda: answering.reply(ready, [[5] * 36], answering.Decoding(6)),
        lambda: answering.judge(ready, [likelihoods.Ids([5] * 36, [6] * 6)]),
    ):
        with pytest.raises(errors.DataError, match="were made for 40 positions"):
            use()
    answering.check_positions(ready, 41)


def test_lines_are_written_as_they_finish(fake, asked, monkeypatch):
    stream = decode.stream

    def dying(*args, **options):
        for count, one in enumerate(stream(*args, **options)):
            if count == 2:
                raise KeyboardInterrupt
            yield one

    monkeypatch.setattr(decode, "stream", dying)
    with pytest.raises(KeyboardInterrupt):
        generate(**asked)
    assert [row["index"] for row in lines(asked["output"])] == [3, 2]


def test_answers_of_others_are_not_continued(fake, asked, tmp_path):
    generate(**asked)
    with pytest.raises(errors.ConfigError, match="holds answers of seed = 0, not 1; --output"):
        generate(**asked, seed=1)
    with open(asked["inputs"], "a") as file:
        file.write('{"prompt": "say it"}\n')
    with pytest.raises(errors.ConfigError, match="holds answers of rows = 4, not 5"):
        generate(**asked)
    (tmp_path / "mine.txt").write_text("precious")
    with pytest.raises(errors.ConfigError, match="no run of generate is known to have written"):
        generate(**asked | {"output": str(tmp_path / "mine.txt")})
    (tmp_path / "mine.txt.settings.json").write_text("[]")
    with pytest.raises(errors.ConfigError, match="no run of generate is known to have written"):
        generate(**asked | {"output": str(tmp_path / "mine.txt")})
    assert (tmp_path / "mine.txt").read_text() == "precious"


def test_other_weights_at_the_same_path_are_told(fake, asked, monkeypatch):
    """Answers of two models were mixed in one file."""
    digests = iter(["1", "1", "2"])
    monkeypatch.setattr(
        opening, "identity", lambda path: {"weights": path, "weights_xxh3": next(digests)}
    )
    assert generate(**asked) == generate(**asked)
    with pytest.raises(errors.ConfigError, match="of other weights that lay at copy; --output"):
        generate(**asked)


def test_a_digest_is_of_the_weights_and_of_nothing_else(tmp_path):
    first = opening.identity(str(written.directory(tmp_path / "a", "llama")))
    assert first["weights"] == str(tmp_path / "a")
    same = written.directory(
        tmp_path / "b", "llama", files=[["model.norm.weight"]]
    )  # other files, same tensors
    assert opening.identity(str(same))["weights_xxh3"] == first["weights_xxh3"]
    tensors = checkpoints.load("llama").tensors
    name = "model.layers.1.mlp.up_proj.weight"
    for n, other in enumerate(
        [{name: tensors[name] * 2}, {"model.norm.weight": tensors["model.norm.weight"] + 1}]
    ):
        path = written.directory(tmp_path / str(n), "llama", **other)
        assert opening.identity(str(path))["weights_xxh3"] != first["weights_xxh3"]
    path = written.directory(tmp_path / "c", "llama", config={"rms_norm_eps": 0.5})
    assert opening.identity(str(path))["weights_xxh3"] != first["weights_xxh3"]
    bases = paths.folder("tasks") / "village"
    found = [opening.identity(str(bases / one)) for one in ("base_t5", "base_decoder")]
    assert found[0]["weights_xxh3"] != found[1]["weights_xxh3"]


def test_a_disk_that_is_full_ends_with_what_was_answered(fake, asked, monkeypatch, capfd, tmp_path):
    add, count = answers_file.AnswersFile.add, 0

    def full(self, index, samples):
        nonlocal count
        count += 1
        if count == 3:
            self._stream.flush()
            os.dup2(os.open("/dev/full", os.O_WRONLY), self._stream.fileno())
        add(self, index, samples)

    monkeypatch.setattr(answers_file.AnswersFile, "add", full)
    with pytest.raises(errors.StorageError, match="No space left on device.*goes on with"):
        generate(**asked)
    assert [row["index"] for row in lines(asked["output"])] == [3, 2]
    assert len(generate(**asked)) == 4 and "2 of 4 were answered" in capfd.readouterr().err
    below = str(tmp_path / "in.jsonl" / "out.jsonl")
    with pytest.raises(errors.StorageError, match="cannot write the answers"):
        generate(**asked | {"output": below})


def test_without_a_tokenizer_the_flag_is_named(tmp_path, capsys):
    path = written.directory(tmp_path / "bare", "llama")
    assert cli.main(["generate", "--model_dir", str(path), "--prompt", "x"]) == 2
    told = capsys.readouterr().err
    assert "no tokenizer beside the weights" in told and "or --vocabulary PATH" in told


def test_stop_strings_and_seeds_of_rows(fake, tmp_path):
    (tmp_path / "in.jsonl").write_text('{"prompt": "say abcd", "seed": 9}\n')
    got = generate(inputs=str(tmp_path / "in.jsonl"), stop=("c",))
    assert got[0]["response"] == "ab" and fake[0]["seeds"] == [9]
    (tmp_path / "in.jsonl").write_text('{"prompt": "say abcd", "seed": -1}\n')
    with pytest.raises(errors.DataError, match=r"seed is -1; .*in.jsonl:1; use an integer"):
        generate(inputs=str(tmp_path / "in.jsonl"))


def test_says_what_is_wrong(fake, tmp_path):
    def complaint(kind, **options):
        with pytest.raises(kind) as raised:
            generate(**options)
        return str(raised.value)

    assert "one of --prompt and --inputs" in complaint(errors.ConfigError)
    assert "one of" in complaint(errors.ConfigError, prompt="a", inputs="b")
    assert "nowhere.json" in complaint(errors.ConfigError, inputs="/nowhere.json")
    (tmp_path / "x.json").write_text('[{"prompt": "a"}, {"question": "b"}]')
    got = complaint(errors.DataError, inputs=str(tmp_path / "x.json"))
    assert "question" in got and "[1]" in got and "--prompt_field" in got
    (tmp_path / "x.json").write_text('[{"question": "say b"}, {"question": ["c"]}]')
    got = complaint(errors.DataError, inputs=str(tmp_path / "x.json"), prompt_field="question")
    assert 'question is ["c"], not text' in got and "[1]" in got
    got = complaint(errors.DataError, inputs=str(tmp_path / "x.json"), prompt_field="turns")
    assert "no turns among the fields ['question']" in got
    (tmp_path / "x.json").write_text("[]")
    assert "no rows; " in complaint(errors.DataError, inputs=str(tmp_path / "x.json"))
    (tmp_path / "x.json").write_text('[{"question": "say b", "prompt": "x"}]')
    (row,) = generate(inputs=str(tmp_path / "x.json"), prompt_field="question")
    assert row["response"] == "b"


@pytest.mark.parametrize(
    "flags, told",
    [
        ("--top_p 1.5", "top_p = 1.5"),
        ("--temperature -1", "temperature = -1.0"),
        ("--top_k 5", "top_k = 5 has no effect at temperature 0"),
        ("--num_beams 4 --temperature 1", "num_beams = 4 does not go with temperature = 1.0"),
        ("--num_beams 2 --stop x", "stop strings do not go with beams"),
        ("--num_beams 2 --num_samples 3", "num_samples = 3 is more than num_beams = 2"),
        ("--num_samples 3", "num_samples = 3 at temperature 0 are all alike"),
        ("--max_new_tokens 0", "max_new_tokens = 0"),
        ("--cache_dtype int4", "cache_dtype = 'int4' is unknown"),
        ("--repetition_penalty 0", "repetition_penalty = 0.0"),
        ("--seed -1", "seed = -1"),
    ],
)
def test_bad_settings_are_told_before_anything_is_read(flags, told, capsys):
    command = ["generate", "--model_dir", "/nowhere", "--inputs", "/nowhere.jsonl"]
    assert cli.main([*command, *flags.split()]) == 2
    assert told in capsys.readouterr().err


@pytest.mark.parametrize("layout", ["decoder", "encoder_decoder"])
def test_a_prompt_asked_is_the_prompt_trained(layout):
    """The verb `generate` and training render the same question to the same ids."""
    row = {"instruction": "Add.", "input": "1 2"}
    asked = opening.question(row, "row 0")
    trained = records.from_features(row | {"output": "3"})
    template = templates.get("alpaca")
    example = preprocess.instruction(trained, BYTES, template, layout=layout)
    ids = preprocess.prompt(asked, BYTES, template, layout=layout)
    side = example.inputs if layout == "encoder_decoder" else example.targets
    assert side.ids[: len(ids)] == ids


def test_progress_is_a_line_now_and_then(capfd):
    times = iter([0.0, 4.0, 12.0, 13.0, 20.0])
    with progress.Progress(10, 6, clock=lambda: next(times)) as told:
        for _ in range(4):
            told.add()
    assert capfd.readouterr().err.splitlines() == [
        "6 of 10 were answered already",
        "8 of 10 rows, 0.17 a second, 12 s left",
        "10 of 10 rows, 0.20 a second, 0 s left",
    ]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["base_t5", "base_decoder"])
def test_the_verbs_answer_at_bare_weights(name, tmp_path, capfd):
    """The model, the tokenizer and the prompt are found without a configuration."""
    weights = str(paths.folder("tasks") / "village" / name)
    flags = ["--model_dir", weights, "--max_new_tokens", "5"]
    (tmp_path / "in.jsonl").write_text('{"prompt": "Say 3."}\n{"prompt": "Rosa"}\n')
    files = ["--inputs", str(tmp_path / "in.jsonl"), "--output", str(tmp_path / "out.jsonl")]
    assert cli.main(["generate", *flags, *files]) == 0
    answers = [row["response"] for row in lines(tmp_path / "out.jsonl")]
    assert cli.main(["generate", *flags, "--prompt", "Say 3."]) == 0
    assert cli.main(["chat", *flags, "--once", "Say 3."]) == 0
    assert capfd.readouterr().out == f"{answers[0]}\n" * 2
    assert cli.main(["generate", *flags, *files, "--seed", "2"]) == 2
