"""psycopg behind the auth proxy: new connections and transactions for the given seconds."""

import os
import sys
import time

import psycopg

end = time.monotonic() + float(sys.argv[1])
connections = 0
while time.monotonic() < end:
    # By the variables, and by the URL.
    for conninfo in ("", os.environ["DATABASE_URL"]):
        with psycopg.connect(conninfo) as connection:
            for number in range(3):
                row = connection.execute("SELECT session_user, %s::int", [number], prepare=True).fetchone()
                assert row == (os.environ["EXPECTED_USER"], number), row
            with connection.transaction():
                connection.execute("CREATE TEMP TABLE numbers (n int) ON COMMIT DROP")
                with connection.cursor() as cursor:
                    with cursor.copy("COPY numbers FROM STDIN") as copy:
                        for number in range(100):
                            copy.write_row([number])
                assert connection.execute("SELECT sum(n) FROM numbers").fetchone() == (4950,)
        connections += 1
print(connections)
