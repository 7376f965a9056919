"""What happens in a process, told to whoever wants to know: the access log, the counters, and the log's summaries."""
