"""What people do to tables that are published: compact their files, lead them back, ask the lake."""
