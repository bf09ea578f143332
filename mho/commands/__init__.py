"""One file a command. The face is light: what a command needs is imported inside it, when it runs."""
