"""What the user states about a run: settings, and the files and flags they come from."""
