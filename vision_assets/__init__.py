"""Multi-tenant media intelligence for Telegram posts, as a Dagster project."""
