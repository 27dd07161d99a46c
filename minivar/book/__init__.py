"""What only the notebooks call: figures, explorers, and the checks of the exercises."""
