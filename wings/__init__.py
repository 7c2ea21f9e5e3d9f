"""Wings: learners that let any decoder LLM see without forgetting its language."""
