"""One file per command or group of commands; each is loaded when it is named on the command line."""
