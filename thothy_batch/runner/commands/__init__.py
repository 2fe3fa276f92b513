"""One use case a module: run, plan, report, doctor, init."""
