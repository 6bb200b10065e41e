"""What job code uses: reports, progress, steps, `current_job()`."""
