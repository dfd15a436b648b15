"""The flags --import and --trust_run, which every program has.

`cli/program.py` adds them to each program, and calls `apply_flags` before the
program does anything else.
"""

from __future__ import annotations

from absl import flags

_IMPORT = flags.DEFINE_list(
    "import",
    [],
    "Python modules to import first, separated by commas: modules that "
    "register Keras layers of your own, or that a run's config names "
    "(module:Name). The current folder and PYTHONPATH are searched.",
)
_TRUST_RUN = flags.DEFINE_bool(
    "trust_run",
    False,
    "Trust the run's folder and the models it uses: import every module that "
    "they name, and load models with Lambda layers, which run code stored in "
    "the file. Use it only if you trust their author.",
)


def show_in_help(program: str) -> None:
    """Lists the flags in a program's --help.

    Args:
        program: The module of the program, or the path of its script.
    """
    for flag in flags.FLAGS.get_key_flags_for_module(__name__):
        flags.FLAGS.register_key_flag_for_module(program, flag)


def apply_flags() -> None:
    """Imports and trusts what the command line names.

    Raises:
        ValueError: If a module cannot be imported.
    """
    if not flags.FLAGS.is_parsed():  # `main` was called by a test.
        return
    if not _IMPORT.value and not _TRUST_RUN.value:
        return
    from tf_triplet.builders import extensions

    for name in _IMPORT.value:
        extensions.import_module(name)
    extensions.trust(*_IMPORT.value, everything=_TRUST_RUN.value)
