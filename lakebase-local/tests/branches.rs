//! Branches over REST: copies with a Postgres, a compute and a gateway of their own.

#![allow(clippy::expect_used)] // a test fails by panicking

mod support;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use lakebase_local::{Cut, EventKind, LocalLakebase, Wake};
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use support::{Vars, assert_becomes_empty, http, program, scratch, send, serving, sqlstate, tell};
use tokio_postgres::Client;

const DATABASE: &str = "databricks_postgres";
const API: &str = "/api/2.0/postgres/";
const PROJECT: &str = "projects/local";
const PRODUCTION: &str = "projects/local/branches/production";

fn path_of(id: &str) -> String {
    format!("{PROJECT}/branches/{id}")
}

/// A caller of the workspace API.
struct Caller {
    vars: Vars,
    bearer: String,
}

impl Caller {
    fn person(local: &LocalLakebase) -> Self {
        Self {
            vars: Vars::of(local),
            bearer: local.user_token().to_owned(),
        }
    }

    async fn call(&self, method: &str, path: &str, body: &Value) -> (u16, Value) {
        let bearer = format!("Authorization: Bearer {}", self.bearer);
        let headers = [&*bearer, "Content-Type: application/json"];
        let body = body.to_string();
        let path = format!("{API}{path}");
        let reply = http(self.vars.api(), method, &path, &headers, &body).await;
        let reply = reply.expect("a reply");
        let body = serde_json::from_str(&reply.body).unwrap_or_else(|_| panic!("{reply:?}"));
        (reply.status, body)
    }

    async fn get(&self, path: &str) -> Value {
        let (status, body) = self.call("GET", path, &json!({})).await;
        assert_eq!(status, 200, "{path}: {body}");
        body
    }

    /// The operation in the end.
    async fn finish(&self, (status, operation): (u16, Value)) -> Value {
        assert_eq!(status, 200, "{operation}");
        let mut operation = operation;
        while operation["done"] == json!(false) {
            let name = operation["name"].as_str().expect("a name").to_owned();
            operation = self.get(&name).await;
        }
        operation
    }

    async fn create(&self, id: &str, spec: Value) -> Value {
        let path = format!("{PROJECT}/branches?branch_id={id}");
        let begun = self.call("POST", &path, &json!({ "spec": spec })).await;
        let operation = self.finish(begun).await;
        assert_eq!(operation["error"], Value::Null, "{operation}");
        operation["response"].clone()
    }

    async fn delete(&self, id: &str, purge: bool) -> Value {
        let path = format!("{}?purge={purge}", path_of(id));
        let begun = self.call("DELETE", &path, &json!({})).await;
        self.finish(begun).await
    }

    /// Status, code and text of a call that fails.
    async fn failure(&self, method: &str, path: &str, body: Value) -> (u16, String, String) {
        let (status, body) = self.call(method, path, &body).await;
        let text = |name: &str| body[name].as_str().unwrap_or_default().to_owned();
        (status, text("error_code"), text("message"))
    }

    /// Logs in as the person with a token for the branch's own endpoint, at its own host.
    async fn log_in(&self, id: &str) -> Result<Client, tokio_postgres::Error> {
        let name = format!("{}/endpoints/primary", path_of(id));
        let endpoint = self.get(&name).await;
        let host = endpoint["status"]["hosts"]["host"].as_str();
        let me = self.vars.token_for(&self.bearer, &name).await;
        let host = host.expect("a host");
        let vars = &self.vars;
        vars.log_in_at(host, None, &user(&me), &me, DATABASE).await
    }

    async fn session(&self, id: &str) -> Client {
        self.log_in(id).await.expect("a session")
    }
}

/// The identity that a token names.
fn user(token: &str) -> String {
    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;

    let claims = token.split('.').nth(1).expect("claims");
    let claims = URL_SAFE_NO_PAD.decode(claims).expect("base64");
    let claims: Value = serde_json::from_slice(&claims).expect("JSON");
    claims["sub"].as_str().expect("a subject").to_owned()
}

fn ttl() -> Value {
    json!({ "ttl": "3600s" })
}

async fn rows(client: &Client, table: &str) -> i64 {
    let sql = format!("SELECT count(*) FROM {table}");
    client.query_one(&sql, &[]).await.expect("a count").get(0)
}

async fn start() -> (LocalLakebase, Caller) {
    let local = LocalLakebase::start().await.expect("started");
    let caller = Caller::person(&local);
    (local, caller)
}

#[tokio::test]
async fn a_branch_has_the_committed_data_of_its_source_and_is_independent_of_it() {
    let (local, caller) = start().await;
    local
        .sql("CREATE TABLE orders AS SELECT FROM generate_series(1, 1000)")
        .await
        .expect("a table");
    local
        .sql("GRANT ALL ON orders TO PUBLIC")
        .await
        .expect("granted");
    let production = caller.session("production").await;
    let mut open = caller.session("production").await;
    let open = open.transaction().await.expect("begun");
    open.execute("INSERT INTO orders SELECT FROM generate_series(1, 7)", &[])
        .await
        .expect("inserted");

    let began = Instant::now();
    caller.create("feature", ttl()).await;
    tell(&format!("a branch is ready after {:?}", began.elapsed()));

    let feature = caller.session("feature").await;
    assert_eq!(rows(&feature, "orders").await, 1000);
    open.commit().await.expect("committed");
    feature
        .batch_execute("DELETE FROM orders")
        .await
        .expect("deleted");
    assert_eq!(rows(&feature, "orders").await, 0);
    assert_eq!(rows(&production, "orders").await, 1007);

    // A branch of a branch has the data of that one.
    let source = json!({ "ttl": "3600s", "source_branch": path_of("feature") });
    caller.create("grandchild", source).await;
    let grandchild = caller.session("grandchild").await;
    assert_eq!(rows(&grandchild, "orders").await, 0);
    grandchild
        .batch_execute("CREATE SCHEMA app; CREATE TABLE app.new ()")
        .await
        .expect("made");
    let sql = "SELECT to_regclass('app.new') IS NULL";
    for id in ["production", "feature"] {
        let row = caller.session(id).await.query_one(sql, &[]).await;
        assert!(row.expect("an answer").get::<_, bool>(0), "{id}");
    }
    local.stop().await;
}

/// Calls that fail: method, path below the API, body, status, code and a part of the text.
type Rule<'a> = (&'a str, String, Value, u16, &'a str, &'a str);

#[tokio::test]
async fn each_rule_has_its_own_error() {
    let (local, caller) = start().await;
    caller.create("taken", ttl()).await;
    caller
        .create("kept", json!({ "no_expiry": true, "is_protected": true }))
        .await;
    let child = json!({ "ttl": "60s", "source_branch": path_of("taken") });
    caller.create("child", child).await;
    let uid = caller.get(&path_of("taken")).await["uid"].clone();
    let uid = uid.as_str().expect("a uid").to_owned();
    caller.create("gone", ttl()).await;
    caller.delete("gone", false).await;

    let create = |id: &str| format!("{PROJECT}/branches?branch_id={id}");
    let spec = |spec: Value| json!({ "spec": spec });
    let invalid = "INVALID_PARAMETER_VALUE";
    let source = |path: &str| spec(json!({ "ttl": "60s", "source_branch": path }));
    let missing = "Field 'branch_id' is required, expected non-default value (not \"\")!";
    let long = "a".repeat(64);
    let old = json!({ "ttl": "60s", "source_branch_time": "2020-01-01T00:00:00Z" });
    let coming = json!({ "ttl": "60s", "source_branch_lsn": "FFFF/0" });
    let past = json!({ "ttl": "60s", "source_branch_lsn": "0/1" });
    let both = json!({ "ttl": "60s", "no_expiry": true });
    let done = json!({ "expire_time": "2020-01-01T00:00:00Z" });
    let mask = |mask: &str| format!("{}?update_mask={mask}", path_of("taken"));
    let rules: Vec<Rule<'_>> = vec![
        (
            "POST",
            create("taken"),
            spec(ttl()),
            409,
            "ALREADY_EXISTS",
            "branch with such id already exists",
        ),
        (
            "POST",
            create("gone"),
            spec(ttl()),
            409,
            "ALREADY_EXISTS",
            "branch with such id already exists",
        ),
        (
            "POST",
            format!("{PROJECT}/branches"),
            spec(ttl()),
            400,
            invalid,
            missing,
        ),
        (
            "POST",
            create("Upper"),
            spec(ttl()),
            400,
            invalid,
            "branch_id \"Upper\" is not valid",
        ),
        (
            "POST",
            create("1st"),
            spec(ttl()),
            400,
            invalid,
            "is not valid",
        ),
        (
            "POST",
            create("end-"),
            spec(ttl()),
            400,
            invalid,
            "is not valid",
        ),
        (
            "POST",
            create(&long),
            spec(ttl()),
            400,
            invalid,
            "is not valid",
        ),
        (
            "POST",
            create("b"),
            json!({}),
            400,
            invalid,
            "One of expire_time, ttl, or no_expiry must be provided",
        ),
        ("POST", create("b"), spec(both), 400, invalid, "Only one of"),
        (
            "POST",
            create("b"),
            spec(json!({ "no_expiry": false })),
            400,
            invalid,
            "no_expiry",
        ),
        (
            "POST",
            create("b"),
            spec(json!({ "ttl": "720h" })),
            400,
            invalid,
            "ttl",
        ),
        (
            "POST",
            create("b"),
            spec(json!({ "ttl": 3600 })),
            400,
            invalid,
            "ttl",
        ),
        (
            "POST",
            create("b"),
            spec(json!({ "ttl": "2592001s" })),
            400,
            invalid,
            "expiration time exceeds the maximum expiration time",
        ),
        (
            "POST",
            create("b"),
            spec(done),
            400,
            invalid,
            "in the future",
        ),
        (
            "POST",
            create("b"),
            source(&path_of("nobody")),
            404,
            "NOT_FOUND",
            "branch id not found",
        ),
        (
            "POST",
            create("b"),
            source(&path_of(&uid)),
            404,
            "NOT_FOUND",
            "branch id not found",
        ),
        (
            "POST",
            create("b"),
            source(&path_of("gone")),
            404,
            "NOT_FOUND",
            "branch id not found",
        ),
        (
            "POST",
            create("b"),
            source("production"),
            400,
            invalid,
            "source_branch",
        ),
        (
            "POST",
            create("b"),
            spec(old),
            400,
            invalid,
            "keeps no history",
        ),
        (
            "POST",
            create("b"),
            spec(coming),
            400,
            invalid,
            "still to come",
        ),
        (
            "POST",
            create("b"),
            spec(past),
            400,
            invalid,
            "keeps no history",
        ),
        (
            "POST",
            "projects/other/branches?branch_id=b".to_owned(),
            spec(ttl()),
            404,
            "NOT_FOUND",
            "project id not found",
        ),
        (
            "GET",
            path_of("nobody"),
            json!({}),
            404,
            "NOT_FOUND",
            "branch id not found",
        ),
        (
            "GET",
            format!("{}/endpoints", path_of("gone")),
            json!({}),
            404,
            "NOT_FOUND",
            "branch id not found",
        ),
        (
            "GET",
            format!("{}/operations/1", path_of("taken")),
            json!({}),
            404,
            "NOT_FOUND",
            "operation id not found",
        ),
        (
            "DELETE",
            path_of("kept"),
            json!({}),
            400,
            "BAD_REQUEST",
            "cannot delete protected branch",
        ),
        (
            "DELETE",
            path_of("taken"),
            json!({}),
            400,
            "BAD_REQUEST",
            "children",
        ),
        (
            "DELETE",
            path_of("gone"),
            json!({}),
            404,
            "NOT_FOUND",
            "branch id not found",
        ),
        (
            "POST",
            format!("{}/undelete", path_of("taken")),
            json!({}),
            400,
            "BAD_REQUEST",
            "not deleted",
        ),
        (
            "PATCH",
            path_of("taken"),
            spec(ttl()),
            400,
            invalid,
            "update_mask",
        ),
        (
            "PATCH",
            mask("spec.ttl"),
            spec(ttl()),
            400,
            invalid,
            "spec.expiration",
        ),
        (
            "PATCH",
            mask("spec.expiration"),
            json!({}),
            400,
            invalid,
            "must be provided",
        ),
    ];
    for (method, path, body, status, code, text) in rules {
        let case = format!("{method} {path} {body}");
        let failure = caller.failure(method, &path, body).await;
        assert_eq!(
            (failure.0, &*failure.1),
            (status, code),
            "{case}: {}",
            failure.2
        );
        assert!(failure.2.contains(text), "{case}: {}", failure.2);
    }

    let (status, root) = caller.call("DELETE", PRODUCTION, &json!({})).await;
    assert_eq!((status, &root["error_code"]), (400, &json!("BAD_REQUEST")));
    assert_eq!(
        root["message"],
        json!(format!("Cannot delete root branch '{PRODUCTION}'"))
    );
    assert_eq!(root["details"][0]["reason"], json!("RESOURCE_CONFLICT"));
    let context = &root["details"][0]["metadata"]["declarative_context"];
    assert_eq!(context, &json!("MANAGED_BY_PARENT"));

    // The current time and LSN are accepted.
    let now = local.branches().len();
    let time = jiff::Timestamp::now().to_string();
    caller
        .create(
            "of-now",
            json!({ "ttl": "60s", "source_branch_time": time }),
        )
        .await;
    let production = caller.session("production").await;
    let row = production
        .query_one("SELECT pg_current_wal_lsn()::text", &[])
        .await;
    let lsn: String = row.expect("an LSN").get(0);
    caller
        .create("of-lsn", json!({ "ttl": "60s", "source_branch_lsn": lsn }))
        .await;

    local.set_branch_limit(now + 2);
    let failure = caller.failure("POST", &create("more"), spec(ttl())).await;
    assert_eq!((failure.0, &*failure.1), (400, "BAD_REQUEST"));
    assert!(failure.2.contains("limit of"), "{}", failure.2);

    local.set_can_manage(local.user(), false);
    for (method, path) in [
        ("POST", create("more")),
        ("DELETE", path_of("child")),
        ("PATCH", mask("spec.expiration")),
    ] {
        let failure = caller.failure(method, &path, spec(ttl())).await;
        assert_eq!(
            (failure.0, &*failure.1),
            (403, "PERMISSION_DENIED"),
            "{method}"
        );
    }
    caller.get(&path_of("child")).await;
    let nobody = Caller {
        bearer: "dapi".to_owned(),
        vars: Vars::of(&local),
    };
    let failure = nobody.failure("GET", PRODUCTION, json!({})).await;
    assert_eq!((failure.0, &*failure.1), (401, "UNAUTHENTICATED"));
    local.stop().await;
}

/// Whether both have the same fields with values of the same types; `"..."` is any text.
fn assert_shape(value: &Value, shape: &Value, at: &str) {
    match (value, shape) {
        (Value::Object(value), Value::Object(shape)) => {
            let names = |map: &serde_json::Map<String, Value>| {
                let mut names: Vec<String> = map.keys().cloned().collect();
                names.sort();
                names
            };
            assert_eq!(names(value), names(shape), "{at}");
            for (name, shape) in shape {
                assert_shape(&value[name], shape, &format!("{at}.{name}"));
            }
        }
        (Value::Array(value), Value::Array(shape)) if value.len() == shape.len() => {
            for (value, shape) in value.iter().zip(shape) {
                assert_shape(value, shape, at);
            }
        }
        (Value::String(_), Value::String(any)) if any == "..." => {}
        _ => assert_eq!(value, shape, "{at}"),
    }
}

#[tokio::test]
async fn replies_have_the_fields_of_the_platform() {
    let (local, caller) = start().await;
    let path = format!("{PROJECT}/branches?branch_id=ci-pr-99");
    let spec = json!({ "source_branch": PRODUCTION, "ttl": "14400s" });
    let begun = caller.call("POST", &path, &json!({ "spec": spec })).await;
    let operation = caller.finish(begun).await;
    let name = path_of("ci-pr-99");
    let branch = json!({
        "name": name, "branch_id": "ci-pr-99", "parent": PROJECT, "uid": "...",
        "create_time": "...", "update_time": "...",
        "status": {
            "branch_id": "ci-pr-99", "current_state": "READY", "default": false, "is_protected": false,
            "source_branch": PRODUCTION, "source_branch_lsn": "...", "source_branch_time": "...",
            "state_change_time": "...", "expire_time": "...",
        },
    });
    let metadata = json!({
        "@type": "type.googleapis.com/databricks.postgres.v1.BranchOperationMetadata"
    });
    let shape = json!({ "name": "...", "done": true, "metadata": metadata, "response": branch });
    assert_shape(&operation, &shape, "operation");
    let operation_name = operation["name"].as_str().expect("a name");
    assert!(operation_name.starts_with(&format!("{name}/operations/")));
    assert_eq!(caller.get(operation_name).await, operation);
    assert_shape(&caller.get(&name).await, &branch, "branch");
    let uid = operation["response"]["uid"].as_str().expect("a uid");
    assert!(uid.starts_with("br-"), "{uid}");

    let root = caller.get(PRODUCTION).await;
    let status = json!({
        "branch_id": "production", "current_state": "READY", "default": true, "is_protected": false,
        "state_change_time": "...",
    });
    assert_shape(&root["status"], &status, "root");

    let list = caller.get(&format!("{name}/endpoints")).await;
    let endpoint = json!({
        "name": format!("{name}/endpoints/primary"), "uid": "...", "parent": name,
        "endpoint_id": "primary", "create_time": "...",
        "status": {
            "endpoint_id": "primary", "endpoint_type": "ENDPOINT_TYPE_READ_WRITE",
            "current_state": "ACTIVE", "autoscaling_limit_min_cu": 0.5, "autoscaling_limit_max_cu": 4.0,
            "suspend_timeout_duration": "86400s", "disabled": false,
            "group": { "min": 1, "max": 1, "enable_readable_secondaries": false },
            "settings": { "pg_settings": {} },
            "hosts": {
                "host": "...", "read_write_pooled_host": "...", "read_only_host": "...",
                "read_only_pooled_host": "...",
            },
        },
    });
    assert_shape(&list, &json!({ "endpoints": [endpoint] }), "endpoints");

    let project = caller.get(PROJECT).await;
    assert_eq!(project["status"]["default_branch"], json!(PRODUCTION));
    let projects = caller.get("projects").await;
    assert_eq!(projects["projects"], json!([project]));

    let mut names = Vec::new();
    let mut token = String::new();
    loop {
        let page = format!("{PROJECT}/branches?page_size=1&page_token={token}");
        let page = caller.get(&page).await;
        names.push(page["branches"][0]["branch_id"].clone());
        match page["next_page_token"].as_str() {
            Some(next) => token = next.to_owned(),
            None => break,
        }
    }
    assert_eq!(names, [json!("ci-pr-99"), json!("production")]);

    let deleted = caller.delete("ci-pr-99", false).await;
    let empty = json!({ "@type": "type.googleapis.com/google.protobuf.Empty" });
    let shape = json!({ "name": "...", "done": true, "metadata": metadata, "response": empty });
    assert_shape(&deleted, &shape, "delete");
    let all = caller
        .get(&format!("{PROJECT}/branches?show_deleted=true"))
        .await;
    let status = &all["branches"][0]["status"];
    assert_eq!(status["current_state"], json!("DELETED"));
    for time in ["delete_time", "purge_time"] {
        assert!(status[time].is_string(), "{time}: {status}");
    }
    let rest = caller.get(&format!("{PROJECT}/branches")).await;
    assert_eq!(rest["branches"].as_array().map(Vec::len), Some(1));
    local.stop().await;
}

#[tokio::test]
async fn protection_and_expiry_can_be_changed() {
    let (local, caller) = start().await;
    caller.create("b", ttl()).await;
    let update = async |mask: &str, spec: Value| {
        let path = format!("{}?update_mask={mask}", path_of("b"));
        let begun = caller.call("PATCH", &path, &json!({ "spec": spec })).await;
        caller.finish(begun).await["response"]["status"].clone()
    };
    let status = update("spec.is_protected", json!({ "is_protected": true })).await;
    assert_eq!(status["is_protected"], json!(true));
    assert!(status["expire_time"].is_string(), "{status}");
    let spec = json!({ "is_protected": false, "no_expiry": true });
    let status = update("spec.is_protected,spec.expiration", spec).await;
    assert_eq!(status["is_protected"], json!(false));
    assert_eq!(status["expire_time"], Value::Null);
    // As documented, this updates the branch.
    let path = format!("{PROJECT}/branches?branch_id=b&replace_existing=true");
    let begun = caller.call("POST", &path, &json!({ "spec": ttl() })).await;
    let status = caller.finish(begun).await["response"]["status"].clone();
    assert!(status["expire_time"].is_string(), "{status}");
    assert_eq!(local.counters().branches_created, 1);
    local.stop().await;
}

#[tokio::test]
async fn an_operation_with_a_delay_is_polled_and_the_branch_is_in_init_meanwhile() {
    let (local, caller) = start().await;
    local.set_operation_delay(Duration::from_secs(2));
    let path = format!("{PROJECT}/branches?branch_id=slow");
    let (status, operation) = caller.call("POST", &path, &json!({ "spec": ttl() })).await;
    assert_eq!(
        (status, &operation["done"]),
        (200, &json!(false)),
        "{operation}"
    );
    assert_eq!(operation["response"], Value::Null);
    let branch = caller.get(&path_of("slow")).await;
    assert_eq!(branch["status"]["current_state"], json!("INIT"));
    let endpoint = caller
        .get(&format!("{}/endpoints/primary", path_of("slow")))
        .await;
    assert_eq!(endpoint["status"]["current_state"], json!("INIT"));
    assert_eq!(endpoint["status"]["hosts"], Value::Null);
    for (method, path) in [
        ("DELETE", path_of("slow")),
        ("GET", format!("{}/roles", path_of("slow"))),
        ("PATCH", format!("{}?update_mask=*", path_of("slow"))),
    ] {
        let failure = caller.failure(method, &path, json!({})).await;
        assert_eq!(
            (failure.0, &*failure.1),
            (409, "ABORTED"),
            "{method} {path}"
        );
    }
    let operation = caller.finish((status, operation)).await;
    assert_eq!(
        operation["response"]["status"]["current_state"],
        json!("READY")
    );
    caller.session("slow").await;

    let (_, delete) = caller.call("DELETE", &path_of("slow"), &json!({})).await;
    assert_eq!(delete["done"], json!(false));
    caller.session("slow").await;
    // Ending does not wait for delays.
    local.set_operation_delay(Duration::MAX);
    let path = format!("{PROJECT}/branches?branch_id=never");
    let (_, operation) = caller.call("POST", &path, &json!({ "spec": ttl() })).await;
    assert_eq!(operation["done"], json!(false));
    let began = Instant::now();
    local.stop().await;
    assert!(began.elapsed() < Duration::from_secs(30));
}

#[tokio::test]
async fn an_expired_branch_is_deleted_and_can_be_undeleted_until_it_is_purged() {
    let (local, caller) = start().await;
    caller.create("b", ttl()).await;
    local
        .branch_sql("b", "CREATE TABLE kept AS SELECT 1 AS id")
        .await
        .expect("a table");
    local
        .branch_sql("b", "GRANT ALL ON kept TO PUBLIC")
        .await
        .expect("granted");
    let session = caller.session("b").await;
    let address = local.branch_address("b").expect("an address");
    let deleted = |purged: bool| {
        let wanted = EventKind::BranchDeleted {
            branch: "b".to_owned(),
            purged,
        };
        move |events: &[lakebase_local::Event]| events.iter().any(|event| event.kind == wanted)
    };
    local.set_clock_skew_millis(2 * 3_600_000);
    local.wait_until(deleted(false)).await;
    let ended = session.batch_execute("SELECT 1").await.expect_err("ended");
    assert!(
        sqlstate(&ended) == "57P01" || ended.is_closed(),
        "{ended:?}"
    );
    assert!(tokio::net::TcpStream::connect(address).await.is_err());
    assert_eq!(local.branches(), [PRODUCTION]);
    let path = format!("{PROJECT}/branches?branch_id=b");
    let failure = caller
        .failure("POST", &path, json!({ "spec": ttl() }))
        .await;
    assert_eq!(failure.0, 409, "{failure:?}");

    let undelete = format!("{}/undelete", path_of("b"));
    let begun = caller.call("POST", &undelete, &json!({})).await;
    caller.finish(begun).await;
    let status = caller.get(&path_of("b")).await["status"].clone();
    assert_eq!(status["current_state"], json!("READY"));
    assert_eq!(rows(&caller.session("b").await, "kept").await, 1);

    caller.delete("b", false).await;
    local.set_clock_skew_millis(9 * 86_400_000);
    local.wait_until(deleted(true)).await;
    let failure = caller.failure("GET", &path_of("b"), json!({})).await;
    assert_eq!(failure.0, 404, "{failure:?}");
    caller.create("b", ttl()).await;
    caller.delete("b", true).await;
    caller.create("b", ttl()).await;
    assert_eq!(local.counters().branches_created, 3);
    local.stop().await;
}

#[tokio::test]
async fn a_branch_of_a_database_that_is_written_to_has_whole_transactions() {
    let (local, caller) = start().await;
    let tables = "CREATE TABLE debit (id int, text text); CREATE TABLE credit (id int, text text)";
    local.sql(tables).await.expect("tables");
    let write = async {
        let change = "INSERT INTO debit SELECT id, repeat('x', 500) FROM generate_series(1, 200) AS id; \
                      CREATE TABLE brief (id int); \
                      INSERT INTO credit SELECT * FROM debit OFFSET (SELECT count(*) FROM credit); \
                      DROP TABLE brief";
        loop {
            local.sql(change).await.expect("written");
            local.sql("CHECKPOINT").await.expect("a checkpoint");
        }
    };
    let branches = async {
        for number in 0..3 {
            caller.create(&format!("b{number}"), ttl()).await;
        }
    };
    tokio::select! {
        () = branches => {}
        () = write => {}
    }
    let mut last = 0;
    for number in 0..3 {
        let check = "DO $$ BEGIN \
                     IF (SELECT count(*) FROM debit) <> (SELECT count(*) FROM credit) \
                     THEN RAISE 'half a transaction'; END IF; END $$; \
                     GRANT SELECT ON debit TO PUBLIC";
        let id = format!("b{number}");
        local.branch_sql(&id, check).await.expect("whole");
        let count = rows(&caller.session(&id).await, "debit").await;
        assert!(count >= last, "{id}: {count} after {last}");
        last = count;
    }
    local.stop().await;
}

#[tokio::test]
async fn a_fresh_branch_rejects_valid_tokens_for_the_time_that_is_set() {
    let (local, caller) = start().await;
    local.set_fresh_branch_refusal(Some(Duration::MAX));
    caller.create("fresh", ttl()).await;
    let error = caller.log_in("fresh").await.expect_err("rejected");
    let error = error.as_db_error().expect("an answer");
    assert_eq!(error.code().code(), "28000");
    assert_eq!(error.message(), "External authorization failed");
    caller.session("production").await;
    local.set_fresh_branch_refusal(None);
    caller.create("later", ttl()).await;
    caller.session("later").await;
    local.stop().await;
}

#[tokio::test]
async fn branches_have_a_compute_and_roles_of_their_own() {
    let (local, caller) = start().await;
    local
        .create_native_role("native", "password")
        .await
        .expect("a role");
    caller.create("b", ttl()).await;
    let vars = Vars::of(&local);
    let address = local.branch_address("b").expect("an address");
    assert_eq!(address.port().to_string(), vars.get("PGPORT"));
    let endpoint = caller
        .get(&format!("{}/endpoints/primary", path_of("b")))
        .await;
    let hosts = &endpoint["status"]["hosts"];
    assert_eq!(hosts["host"], json!(address.ip().to_string()));
    for name in ["read_write_pooled_host", "read_only_host"] {
        let host = hosts[name].as_str().expect("a host");
        let login = vars.log_in_at(host, Some(address.ip()), "native", "password", DATABASE);
        login.await.expect(name);
    }
    local
        .create_role("only@production.example")
        .await
        .expect("a role");
    local
        .create_native_role("late", "password")
        .await
        .expect("a role");
    let host = address.ip().to_string();
    let login = vars.log_in_at(&host, None, "late", "password", DATABASE);
    login.await.expect_err("not a role of the branch");

    let wake = Wake::Close;
    local
        .suspend(Cut::Message, Duration::from_secs(3600), wake)
        .await
        .expect("suspended");
    caller.session("b").await;
    caller.log_in("production").await.expect_err("suspended");
    let branches = |event: &lakebase_local::Event| match &event.kind {
        EventKind::LoggedIn(login) => Some(login.branch.clone()),
        _ => None,
    };
    let branches: Vec<String> = local.events().iter().filter_map(branches).collect();
    assert_eq!(branches, ["b", "b", "b"]);
    local.stop().await;
}

#[tokio::test]
async fn eight_branches_are_created_at_the_same_time() {
    let (local, caller) = start().await;
    local
        .sql("CREATE TABLE t AS SELECT FROM generate_series(1, 100)")
        .await
        .expect("a table");
    local
        .sql("GRANT ALL ON t TO PUBLIC")
        .await
        .expect("granted");
    let ids: Vec<String> = (0..8).map(|number| format!("ci-{number}")).collect();
    let began = Instant::now();
    join_all(ids.iter().map(|id| caller.create(id, ttl()))).await;
    tell(&format!(
        "eight branches are ready after {:?}",
        began.elapsed()
    ));
    let addresses: Vec<Option<SocketAddr>> =
        ids.iter().map(|id| local.branch_address(id)).collect();
    for (number, id) in ids.iter().enumerate() {
        let session = caller.session(id).await;
        assert_eq!(rows(&session, "t").await, 100, "{id}");
        session
            .batch_execute("DELETE FROM t")
            .await
            .expect("deleted");
        assert!(
            !addresses[..number].contains(&addresses[number]),
            "{addresses:?}"
        );
    }
    let began = Instant::now();
    local.stop().await;
    tell(&format!("they have ended after {:?}", began.elapsed()));
}

#[tokio::test]
async fn two_local_lakebases_have_branches_side_by_side() {
    let ((one, first), (two, second)) = tokio::join!(start(), start());
    tokio::join!(first.create("same", ttl()), second.create("same", ttl()));
    one.branch_sql("same", "CREATE SCHEMA mine")
        .await
        .expect("made");
    second.session("same").await;
    one.stop().await;
    let row = second.session("same").await;
    let row = row
        .query_one("SELECT to_regnamespace('mine') IS NULL", &[])
        .await;
    assert!(row.expect("an answer").get::<_, bool>(0));
    two.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn dropping_the_handle_ends_the_postgres_of_each_branch() {
    let (local, caller) = start().await;
    caller.create("kept", ttl()).await;
    caller.create("deleted", ttl()).await;
    let mut servers = Vec::new();
    for id in ["production", "kept", "deleted"] {
        let session = caller.session(id).await;
        let row = session.query_one("SELECT pg_backend_pid()", &[]).await;
        servers.push(Pid::from_raw(row.expect("a pid").get(0)));
    }
    caller.delete("deleted", false).await;
    drop(local);
    for server in servers {
        assert_eq!(kill(server, None), Err(Errno::ESRCH));
    }
}

#[tokio::test]
async fn no_branch_is_left_behind_after_any_signal() {
    for (signal, is_ready) in [
        (Signal::SIGTERM, true),
        (Signal::SIGKILL, true),
        (Signal::SIGKILL, false),
        (Signal::SIGTERM, false),
    ] {
        let scratch = scratch();
        let mut command = program(scratch.path());
        let started = tokio::task::spawn_blocking(move || serving(&mut command)).await;
        let (mut child, vars) = started.expect("no panic");
        let bearer = vars.workspace_token().await;
        let caller = Caller { vars, bearer };
        let path = format!("{PROJECT}/branches?branch_id=b");
        match is_ready {
            true => drop(caller.create("b", ttl()).await),
            false => {
                // In the middle of it.
                let body = json!({ "spec": ttl() });
                let call = caller.call("POST", &path, &body);
                let folders = || {
                    std::fs::read_dir(scratch.path())
                        .expect("the folder")
                        .count()
                };
                let before = folders();
                let begun = async {
                    while folders() == before {
                        tokio::task::yield_now().await;
                    }
                };
                tokio::select! {
                    _ = call => {}
                    () = begun => {}
                }
            }
        }
        send(&child, signal);
        child.wait().expect("ended");
        assert_becomes_empty(scratch.path());
    }
}

#[tokio::test]
async fn a_borrowed_server_has_one_branch_and_the_error_has_the_reason() {
    let (lender, _) = start().await;
    let host = lender.dir().display().to_string().replace('/', "%2F");
    let url = format!("postgresql://lakebase_admin@{host}/postgres");
    let local = LocalLakebase::builder()
        .postgres_url(url)
        .start()
        .await
        .expect("started");
    let caller = Caller::person(&local);
    let path = format!("{PROJECT}/branches?branch_id=b");
    let failure = caller
        .failure("POST", &path, json!({ "spec": ttl() }))
        .await;
    assert_eq!((failure.0, &*failure.1), (400, "BAD_REQUEST"));
    for part in ["Postgres of lakebase-local's own", "LAKEBASE_LOCAL_PG_URL"] {
        assert!(failure.2.contains(part), "{}", failure.2);
    }
    let roles = caller.get(&format!("{PRODUCTION}/roles")).await;
    assert_eq!(roles["roles"].as_array().map(Vec::len), Some(2), "{roles}");
    local.stop().await;
    lender.stop().await;
}

#[tokio::test]
async fn roles_and_databases_of_a_branch_are_created_changed_and_deleted() {
    let (local, caller) = start().await;
    let bo = "bo@example.com";
    local.add_user(bo);
    caller.create("b", ttl()).await;
    let branch = path_of("b");
    let change = async |method: &str, path: &str, spec: Value| {
        let body = json!({ "spec": spec });
        let begun = caller
            .call(method, &format!("{branch}/{path}"), &body)
            .await;
        let operation = caller.finish(begun).await;
        assert_eq!(operation["error"], Value::Null, "{operation}");
        operation["response"].clone()
    };
    let spec = json!({
        "postgres_role": bo, "identity_type": "USER", "membership_roles": ["DATABRICKS_SUPERUSER"],
        "attributes": { "createdb": true },
    });
    let role = change("POST", "roles?role_id=the-bo", spec.clone()).await;
    let shape = json!({
        "name": format!("{branch}/roles/the-bo"), "role_id": "the-bo", "parent": branch,
        "status": {
            "role_id": "the-bo", "postgres_role": bo, "auth_method": "LAKEBASE_OAUTH_V1",
            "identity_type": "USER", "membership_roles": ["DATABRICKS_SUPERUSER"],
            "attributes": { "createdb": true, "createrole": false, "bypassrls": false },
        },
    });
    assert_shape(&role, &shape, "role");
    assert_eq!(caller.get(&format!("{branch}/roles/the-bo")).await, role);
    let (status, code, text) = caller
        .failure("POST", &format!("{branch}/roles"), json!({ "spec": spec }))
        .await;
    assert_eq!((status, &*code), (400, "BAD_REQUEST"));
    assert_eq!(text, "role with that name already exists");
    // A field that an update names and does not contain is cleared.
    let updated = change(
        "PATCH",
        "roles/the-bo?update_mask=spec.membership_roles",
        json!({}),
    )
    .await;
    assert_eq!(updated["status"]["membership_roles"], json!([]));
    assert_eq!(updated["status"]["attributes"]["createdb"], json!(true));

    let database =
        json!({ "postgres_database": "app_db", "role": format!("{branch}/roles/the-bo") });
    let made = change("POST", "databases", database.clone()).await;
    let shape = json!({
        "name": format!("{branch}/databases/app-db"), "database_id": "app-db", "parent": branch,
        "status": {
            "database_id": "app-db", "postgres_database": "app_db", "role": format!("{branch}/roles/the-bo"),
        },
    });
    assert_shape(&made, &shape, "database");
    for (spec, status, text) in [
        (database, 400, "database with that name already exists"),
        (
            json!({ "postgres_database": "x" }),
            400,
            "Field 'database.spec.role' is required",
        ),
        (
            json!({ "postgres_database": "x", "role": "nobody" }),
            404,
            "role not found; role_id:\"nobody\" [TraceId: ",
        ),
    ] {
        let path = format!("{branch}/databases");
        let failure = caller.failure("POST", &path, json!({ "spec": spec })).await;
        assert_eq!(failure.0, status, "{failure:?}");
        assert!(failure.2.starts_with(text), "{failure:?}");
    }
    let names = async |branch: &str, kind: &str| {
        let list = caller.get(&format!("{branch}/{kind}")).await;
        let list = list[kind].as_array().cloned().unwrap_or_default();
        let name = |item: &Value| {
            item["name"]
                .as_str()
                .unwrap_or_default()
                .rsplit('/')
                .next()
                .map(str::to_owned)
        };
        list.iter().filter_map(name).collect::<Vec<_>>()
    };
    assert_eq!(
        names(&branch, "databases").await,
        ["app-db", "databricks-postgres"]
    );
    assert_eq!(
        names(PRODUCTION, "databases").await,
        ["databricks-postgres"]
    );
    assert_eq!(names(&branch, "roles").await.len(), 3);
    assert_eq!(names(PRODUCTION, "roles").await.len(), 2);

    change(
        "POST",
        "roles?role_id=native",
        json!({ "postgres_role": "native" }),
    )
    .await;
    let path = format!("{branch}/roles/native/password");
    let (_, reply) = caller.call("POST", &path, &json!({})).await;
    let password = reply["password"].as_str().expect("a password");
    let host = local
        .branch_address("b")
        .expect("an address")
        .ip()
        .to_string();
    let login = caller
        .vars
        .log_in_at(&host, None, "native", password, DATABASE);
    login.await.expect("the native role");
    change("DELETE", "roles/native", json!({})).await;

    let spec = json!({ "postgres_role": "owners", "auth_method": "NO_LOGIN" });
    change("POST", "roles", spec).await;
    change("DELETE", "roles/the-bo?reassign_owned_to=owners", json!({})).await;
    let app = caller.get(&format!("{branch}/databases/app-db")).await;
    assert_eq!(
        app["status"]["role"],
        json!(format!("{branch}/roles/owners"))
    );
    change("DELETE", "databases/app-db", json!({})).await;
    assert_eq!(names(&branch, "databases").await, ["databricks-postgres"]);
    local.stop().await;
}
