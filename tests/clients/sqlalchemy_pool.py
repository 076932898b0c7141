"""A SQLAlchemy pool behind the auth proxy, for the seconds that the argument gives."""

import os
import sys
import time

from sqlalchemy import create_engine, event, text

# Over TCP the URL has all of it. SQLAlchemy takes no socket's folder as the host of a URL: that comes from PGHOST.
url = os.environ["DATABASE_URL"] if os.environ["PGHOST"] == "127.0.0.1" else "//"
url = "postgresql+psycopg:" + url.split(":", 1)[1] if url != "//" else "postgresql+psycopg://"
# Young connections: each second new ones log in.
engine = create_engine(url, pool_size=3, max_overflow=0, pool_pre_ping=True, pool_recycle=1)

connections = 0


@event.listens_for(engine, "connect")
def count(*_):
    global connections
    connections += 1


end = time.monotonic() + float(sys.argv[1])
while time.monotonic() < end:
    with engine.begin() as first, engine.begin() as second:
        row = first.execute(text("SELECT session_user, :n"), {"n": "x"}).one()
        assert tuple(row) == (os.environ["EXPECTED_USER"], "x"), row
        pid = second.execute(text("SELECT pg_backend_pid()")).scalar_one()
    # An idle connection ends, and the check before its next use finds that out.
    with engine.begin() as connection:
        if connection.execute(text("SELECT pg_backend_pid()")).scalar_one() != pid:
            ended = connection.execute(text("SELECT pg_terminate_backend(:pid, 5000)"), {"pid": pid})
            assert ended.scalar_one()
    with engine.begin() as first, engine.begin() as second:
        for connection in first, second:
            assert connection.execute(text("SELECT 1")).scalar_one() == 1
engine.dispose()
print(connections)
