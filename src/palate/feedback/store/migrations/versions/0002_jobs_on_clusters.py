"""Jobs on clusters: where one was sent to, and its name there."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Two columns, empty for what runs beside the app."""
    op.add_column("jobs", sa.Column("cluster", sa.Text(), nullable=True))
    op.add_column("jobs", sa.Column("submission", sa.Text(), nullable=True))
