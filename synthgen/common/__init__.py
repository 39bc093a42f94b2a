"""What every room uses: errors, logs, seeds, progress, processes, strict records, printed text, shared options."""
