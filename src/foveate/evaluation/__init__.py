"""From a trained model to scores and predictions."""
