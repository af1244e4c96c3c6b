"""From which settings to an answer: trials of a run in processes of their own."""
