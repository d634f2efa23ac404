"""vLLM servers: what one is asked (`vllm_server`), and how `palate engine` makes, starts and watches one.

A server is an address and a token here. What is drawn for whom, and with which weights, is decided in the room above;
nothing here knows a prompt, a model or a run.
"""
