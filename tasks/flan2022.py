"""FLAN 2022: the mixture of Flan-T5, of the modules flan, t0, super_natural_instructions, flan_cot.

Longpre et al. 2023 (arXiv:2301.13688); weights of github.com/google-research/FLAN, flan/v2:
flan2021 0.40, T0 0.32, Natural Instructions 0.20, chain of thought 0.05, dialogue 0.03; half of
each zero-shot, half few-shot. Licences are those of the four modules. Its 1,836 tasks become those
whose data is there. Dialogue is left out (no module reads it), so the other weights are over 0.97.

Data: the folders flan/, t0/, super_natural_instructions/ and flan_cot/ of T5SFT_DATA (or --data
DIRECTORY); each module says what to fetch.

SeqIO mixture: flan2022 (T0 rows are zero-shot; few-shot prompting of them is not made here).
"""

import dataclasses

from t5sft.data import define, prepare
from t5sft.data.flan import mixing
from t5sft.tasks import flan, flan_cot, super_natural_instructions, t0  # noqa: F401

NIV2 = super_natural_instructions.FOLDER
SUBMIXES = {"flan2021": "flan2021_submix", "t0": "t0", "niv2": "niv2_submix", "cot": "cot_submix"}


def register(data: prepare.Data) -> None:
    """Registers the mixture `flan2022`, when it is asked for.

    Raises:
      DataError: FLAN's rows, or the files of another module, are not there.
    """
    if data.task != "flan2022":
        flan.register(data)
        return
    flan.register(dataclasses.replace(data, task=SUBMIXES["flan2021"]))
    weights = {name: mixing.FLAN2022_WEIGHTS[submix] for submix, name in SUBMIXES.items()}
    define.add_mixture("flan2022", weights, replace=True)


define.add_mixture("niv2_submix", [NIV2, f"{NIV2}_definition"])
