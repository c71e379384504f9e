"""Many runs beside one another: studies, tables, robustness."""
