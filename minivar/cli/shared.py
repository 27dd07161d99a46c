"""What several commands have in common."""

from minivar.data import DATA_ROOT

SHIPPED = DATA_ROOT / "checkpoints" / "digits"
SHIPPED_OPTION = {
    "default": str(SHIPPED),
    "metavar": "DIR",
    "help": "folder with tokenizer.safetensors and var.safetensors or gpt.safetensors (default: the shipped digits)",
}
