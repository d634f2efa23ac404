"""Where models come from, and how they are written back: what others ask of this room.

    "tiny"            a random model of a few thousand weights with a byte tokenizer, for tests
    "smollm2-135m"    SmolLM2-135M-Instruct out of its Python package, converted once into the cache; no network
    anything else     a directory, or a name on the Hugging Face hub

Such a name becomes a directory (`whereabouts`), a config and a tokenizer (`opening`), a network without its weights for
estimates (`sketches`) or with them (`loaded`), and is written in `saving`.
"""

from palate.lm.model import ModelT
from palate.lm.sources.loaded import Loaded, Settle, left_in_files, load_language_model, load_scalar_model
from palate.lm.sources.opening import Precision, default_device, load_chat, product_dtype
from palate.lm.sources.saving import save
from palate.lm.sources.sketches import Sketch, bytes_in_files, sketch_model, stored_alike
from palate.lm.sources.whereabouts import builtin_directory, locate, weight_files

__all__ = [
    "Loaded",
    "ModelT",
    "Precision",
    "Settle",
    "Sketch",
    "builtin_directory",
    "bytes_in_files",
    "default_device",
    "left_in_files",
    "load_chat",
    "load_language_model",
    "load_scalar_model",
    "locate",
    "product_dtype",
    "save",
    "sketch_model",
    "stored_alike",
    "weight_files",
]
