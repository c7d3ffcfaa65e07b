"""Alpaca's instructions with mended or better answers, from two later projects.

alpaca_cleaned  Ruebsamen 2023, github.com/gururise/AlpacaDataCleaned, CC BY-NC 4.0; 51,760 rows:
                empty answers, invented links and merged instructions mended
alpaca_gpt4     Peng et al. 2023 (arXiv:2304.03277), CC BY-NC 4.0; 52,002 rows, answers by GPT-4;
                github.com/Instruction-Tuning-with-GPT-4/GPT-4-LLM

Every 50th row is "validation". For the original, or your own file, see alpaca.py.
Example: {"instruction": "Name two primes.", "input": "", "output": "2 and 3."}

Data: the folder alpaca_cleaned/ of T5SFT_DATA (or --data DIRECTORY) with alpaca_data_cleaned.json,
or alpaca_gpt4/ with alpaca_gpt4_data.json.
"""

from t5sft.data import corpora
from t5sft.evaluate import scores

for _name, _file, _repository in (
    ("alpaca_cleaned", "alpaca_data_cleaned.json", "gururise/AlpacaDataCleaned"),
    ("alpaca_gpt4", "alpaca_gpt4_data.json", "Instruction-Tuning-with-GPT-4/GPT-4-LLM (data/)"),
):
    corpora.add_task(
        _name,
        corpora.Corpus(
            _name, f"fetch {_file} of github.com/{_repository}", corpora.held_out("*.json*")
        ),
        corpora.reader("alpaca"),
        metric_fns=[scores.exact_match],
    )
