"""The model as a service: OpenAI's routes, a page, and what protects them. `onnuri serve` starts
it."""
