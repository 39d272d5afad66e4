"""What a machine, a model and a measurement are: doctor, inspect, verify, bench."""
