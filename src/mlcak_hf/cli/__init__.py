"""The `mlcak` command: parse, call the library, print."""
