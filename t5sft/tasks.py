"""Makes the SeqIO modules of the folder tasks/ importable as t5sft.tasks.<name>.

Always by this name, never as tasks.<name>: that would be a second module object, and SeqIO
refuses to register its tasks a second time.
"""

from t5sft import paths

__path__ = [str(paths.folder("tasks"))]
