"""What is predicted: a small object that each stage asks the same questions."""
