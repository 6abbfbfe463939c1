"""The command line: options, and how every command starts, reports and ends."""
