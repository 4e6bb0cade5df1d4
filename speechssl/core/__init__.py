"""What every room uses: files, errors, ledgers, randomness, processes, the machine. Imports no other room."""
