"""Make torchaudio importable beside a CPU build of torch, and with it every transformers model.

The published torchaudio wheel is linked against CUDA. Beside CPU torch its compiled part raises OSError,
and transformers imports torchaudio whenever it is installed, so that no model class could be loaded.
The Python part (filter banks, resampling) needs nothing compiled: it works once the loader of the compiled
part is replaced. Where torchaudio loads normally nothing is changed.
"""

from __future__ import annotations

import importlib
import sys
import types


def ensure() -> bool:
    """Import torchaudio, pure Python if need be; True when its compiled part works.

    False also where torchaudio is not installed: transformers then does without it.
    """
    try:
        compiled = importlib.import_module("torchaudio._extension")
    except ModuleNotFoundError:
        return False
    except OSError:
        _without_compiled_part()
        return False
    return bool(getattr(compiled, "_IS_TORCHAUDIO_EXT_AVAILABLE", False))


def _without_compiled_part() -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchaudio"]:
        del sys.modules[name]  # half-loaded: a second import would return them as they are
    stand_in = types.ModuleType("torchaudio._extension")
    names = {
        "_IS_TORCHAUDIO_EXT_AVAILABLE": False,
        "_IS_ALIGN_AVAILABLE": False,
        "_check_cuda_version": lambda: None,
        "fail_if_no_align": lambda function: function,
    }
    vars(stand_in).update(names)
    sys.modules["torchaudio._extension"] = stand_in
    importlib.import_module("torchaudio")
