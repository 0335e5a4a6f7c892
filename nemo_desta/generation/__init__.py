"""The backbone writes its own training targets: plan, engines, filters, runner."""
