"""From a space of settings to the best of them: trials that are runs, and what they tell."""
