"""From the graph that was trained to the files that are deployed."""
