"""What only the notebooks call: figures, animations, explorers, and the checks of the exercises."""
