"""What things are: the event log, features, tasks and the job, as typed models. No torch, no I/O beyond one YAML."""
