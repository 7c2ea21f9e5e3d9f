"""`wings experiment`: the package's methods and their baselines on a real LLM, under one roof."""
