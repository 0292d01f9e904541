"""The one road from a file to the network's input, used by `classify` and by `learn` alike."""
