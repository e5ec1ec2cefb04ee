"""The run: the loop, the journal, the run folder and the executors."""
