"""A SQLAlchemy pool behind the auth proxy, for the given seconds."""

import os
import sys
import time

from sqlalchemy import create_engine, event, text
from sqlalchemy.pool import NullPool, Pool

url = "postgresql+psycopg://"
# SQLAlchemy does not decode the folder of a socket in the host of a URL, so the variables have it.
if not os.environ["PGHOST"].startswith("/"):
    url += os.environ["DATABASE_URL"].split("://", 1)[1]
pool = create_engine(url, pool_size=2, max_overflow=0, pool_pre_ping=True, pool_recycle=1)
# Each use logs in.
without_pool = create_engine(url, poolclass=NullPool)
connections = 0


@event.listens_for(Pool, "connect")
def count(*_):
    global connections
    connections += 1


end = time.monotonic() + float(sys.argv[1])
while time.monotonic() < end:
    with pool.begin() as first, pool.begin() as second:
        row = first.execute(text("SELECT session_user, :n"), {"n": "x"}).one()
        assert tuple(row) == (os.environ["EXPECTED_USER"], "x"), row
        pid = second.execute(text("SELECT pg_backend_pid()")).scalar_one()
    # An idle connection ends, which the pool notices before its next use.
    with without_pool.begin() as other:
        ended = other.execute(text("SELECT pg_terminate_backend(:pid, 5000)"), {"pid": pid})
        assert ended.scalar_one()
pool.dispose()
print(connections)
