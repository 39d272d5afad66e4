"""The guard behind the OpenAI API: requests, answers and the HTTP server."""
