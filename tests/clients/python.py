"""The official Python SDK and databricks-ai-bridge, unchanged: connect, query, rotate."""

import os

import psycopg
from databricks.sdk import WorkspaceClient
from databricks_ai_bridge.lakebase import LakebasePool

endpoint = os.environ["LAKEBASE_ENDPOINT"]

client = WorkspaceClient()
me = client.current_user.me().user_name
assert me == os.environ["PGUSER"], me
described = client.postgres.get_endpoint(name=endpoint)
assert described.status.hosts.host == os.environ["PGHOST"]
parent = endpoint.rsplit("/endpoints/", 1)[0]
# Two endpoints, on two pages.
found = [found.name for found in client.postgres.list_endpoints(parent=parent)]
assert found == [f"{parent}/endpoints/replica", endpoint], found

credential = client.postgres.generate_database_credential(endpoint=endpoint)
assert credential.expire_time is not None
with psycopg.connect(
    dbname="databricks_postgres", user=me, password=credential.token, sslmode="verify-full", sslrootcert=os.environ["PGSSLROOTCERT"],
) as connection:
    assert connection.execute("SELECT current_user").fetchone()[0] == me
print("databricks-sdk: ok")

for target in ({"autoscaling_endpoint": endpoint}, {"branch": parent}):
    # Without a cache, every new connection mints.
    pool = LakebasePool(
        workspace_client=client, token_cache_duration_seconds=0, min_size=1, max_size=2,
        **target,
    )
    pids = set()
    for _ in range(3):
        with pool.connection() as connection:
            pids.add(connection.execute("SELECT pg_backend_pid() AS pid").fetchone()["pid"])
            connection.close()
    assert len(pids) == 3, pids
    pool.close()
print("databricks-ai-bridge: ok")
