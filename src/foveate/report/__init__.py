"""From a run folder to one offline HTML page; free of Keras."""
