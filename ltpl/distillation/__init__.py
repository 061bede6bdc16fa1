"""What a student learns from a teacher: losses, listening, memory, teachers; no Lightning."""
