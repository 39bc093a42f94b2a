"""What every room of the house uses: errors, seeds, progress, records, text for people."""
