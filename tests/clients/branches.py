"""The official Python SDK, unchanged: creates, reads and deletes a branch, and connects to it."""

import os
from datetime import timedelta

import psycopg
from databricks.sdk import WorkspaceClient
from databricks.sdk.common.types.fieldmask import FieldMask
from databricks.sdk.errors import AlreadyExists, BadRequest, NotFound
from databricks.sdk.service.postgres import Branch, BranchSpec, BranchStatusState, Database, DatabaseDatabaseSpec
from google.protobuf.duration_pb2 import Duration

endpoint = os.environ["LAKEBASE_ENDPOINT"]
production = endpoint.rsplit("/endpoints/", 1)[0]
project = production.rsplit("/branches/", 1)[0]

w = WorkspaceClient()
api = w.postgres
assert api.get_project(name=project).status.default_branch == production


def spec(**fields):
    return Branch(spec=BranchSpec(**fields))


ttl = Duration()
ttl.FromTimedelta(timedelta(hours=4))
branch = api.create_branch(
    parent=project, branch=spec(source_branch=production, ttl=ttl), branch_id="ci-pr-99"
).wait()
assert branch.name == f"{project}/branches/ci-pr-99", branch
assert branch.status.current_state == BranchStatusState.READY, branch
assert branch.status.source_branch == production, branch
assert branch.status.expire_time is not None and branch.uid.startswith("br-"), branch
assert api.get_branch(name=branch.name) == branch
assert [found.name for found in api.list_branches(parent=project, page_size=1)] == [branch.name, production]

# Its endpoint, with its own credential.
(primary,) = api.list_endpoints(parent=branch.name)
credential = api.generate_database_credential(endpoint=primary.name)
me = w.current_user.me().user_name
with psycopg.connect(
    host=primary.status.hosts.host, dbname="databricks_postgres", user=me, password=credential.token,
    sslmode="verify-full", sslrootcert=os.environ["PGSSLROOTCERT"],
) as connection:
    assert connection.execute("SELECT current_user").fetchone()[0] == me

roles = {role.status.postgres_role: role.name for role in api.list_roles(parent=branch.name)}
database = api.create_database(
    parent=branch.name, database=Database(spec=DatabaseDatabaseSpec(role=roles[me], postgres_database="app")),
).wait()
assert database.status.postgres_database == "app" and database.status.role == roles[me], database

for error, call in (
    (AlreadyExists, lambda: api.create_branch(parent=project, branch=spec(no_expiry=True), branch_id="ci-pr-99")),
    (BadRequest, lambda: api.create_branch(parent=project, branch=spec(), branch_id="other")),
    (NotFound, lambda: api.get_branch(name=f"{project}/branches/nobody")),
    (BadRequest, lambda: api.delete_branch(name=production)),
):
    try:
        call()
    except error as caught:
        print(f"{error.__name__}: {caught}")
    else:
        raise AssertionError(error)

updated = api.update_branch(
    name=branch.name, branch=spec(no_expiry=True), update_mask=FieldMask(["spec.expiration"])
).wait()
assert updated.status.expire_time is None, updated
api.delete_branch(name=branch.name).wait()
assert [found.name for found in api.list_branches(parent=project)] == [production]
api.undelete_branch(name=branch.name).wait()
assert api.get_branch(name=branch.name).status.current_state == BranchStatusState.READY
api.delete_branch(name=branch.name, purge=True).wait()
print("databricks-sdk, branches: ok")
