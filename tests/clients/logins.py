"""databricks-ai-bridge, unchanged: new connections for the given seconds. Prints the milliseconds of each."""

import os
import sys
import time

from databricks.sdk import WorkspaceClient
from databricks_ai_bridge.lakebase import LakebasePool

# Tokens change every two seconds.
pool = LakebasePool(
    workspace_client=WorkspaceClient(), autoscaling_endpoint=os.environ["LAKEBASE_ENDPOINT"],
    token_cache_duration_seconds=2, min_size=0, max_size=1,
)


def login():
    began = time.perf_counter()
    with pool.connection() as connection:
        took = time.perf_counter() - began
        # The pool opens a new one for the next caller.
        connection.close()
    return took * 1000


login()
end = time.monotonic() + float(sys.argv[1])
while time.monotonic() < end:
    print(login())
pool.close()
