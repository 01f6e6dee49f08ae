"""What every command line tool of graphopt shares: errors in one line, tables, progress, JSON and plots to a file."""
