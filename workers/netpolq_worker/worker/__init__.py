"""The worker process: reads the packets of one queue and sends verdicts."""
