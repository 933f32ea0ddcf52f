"""Every copy of a model, run on the same examples and compared: runners, verify, report, benchmark."""
